"""The commands that speak to a service; each module has those of one subject. They need no package of a service."""
