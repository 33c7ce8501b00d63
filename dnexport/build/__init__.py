"""From a recipe to a bundle: the stages, their cache, and what they say at the end."""
