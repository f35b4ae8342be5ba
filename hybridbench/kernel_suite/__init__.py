"""kernel_suite: single operations timed by themselves."""
