"""What the Linux kernel offers and Python 3.11 does not: thin wrappers, one module per job.

Every failure is a KernelError that names the system call, the errno and, where there is one, the path.
"""
