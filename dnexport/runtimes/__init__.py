"""One adapter per SDK behind one contract. Importing this package imports no SDK."""
