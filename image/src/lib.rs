//! A reference becomes a rootfs: store, registry client, registry server, unpack, archives.
