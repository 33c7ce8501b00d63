"""From images to ranges: observers, and the table that remembers where its numbers come from."""
