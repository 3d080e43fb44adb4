//! Containers on one host: run, ps, logs, exec, names, volumes, networks, restart, health. No daemon.
