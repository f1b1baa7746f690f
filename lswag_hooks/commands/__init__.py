"""The commands of ``lswag``, one file each: the options that it takes, and what it does with them."""
