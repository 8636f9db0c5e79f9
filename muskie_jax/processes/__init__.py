"""How the processes of a job start, stop and fail: signals, locks, limits of time, and each other."""
