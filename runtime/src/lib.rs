//! A bundle becomes a process: namespaces, cgroups, mounts, seccomp, capabilities.
