"""One page that says what was built, what it lost, what it gained, and how sure that is."""
