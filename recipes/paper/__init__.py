"""The tables and figures of the L-SWAG paper, each from one script and one configuration."""
