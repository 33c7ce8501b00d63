"""The directory that goes to a device: written whole or not at all, verified before it is used."""
