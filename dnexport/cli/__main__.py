"""``python -m dnexport.cli``"""

from dnexport.cli.main import main

main()
