"""Control groups, version 2 only: the tree, where containers are in it, and what controllers do to one."""
