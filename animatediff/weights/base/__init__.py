"""Image models: single files and folders, their components and configurations."""
