"""Deploy: a bundle to a folder that another platform serves."""
