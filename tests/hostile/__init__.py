"""Files made to do harm, and files changed by chance."""
