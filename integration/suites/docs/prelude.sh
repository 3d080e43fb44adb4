# Before the blocks of a document: which host speaks, and what its hidden set-up comments may call.
# In: BIN (folder of the binaries), BIN_SCRATCH (an empty folder), HOSTS (lines "NAME NETNS ROOT"). The working folder is the document's own.
set -euo pipefail
PATH=$BIN:$PATH
on() { # NAME: what follows is typed on this host
  read -r _ netns SHOAL_ROOT < <(grep "^$1 " <<<"$HOSTS")
  export SHOAL_ROOT
}
# Every program that touches the network or the host's roots goes through the host's namespace; its root folder is in the environment.
enter() { nsenter --net="/run/netns/$netns" -- "$@"; }
shoal() { enter "$BIN/shoal" "$@"; }
curl() { enter "$(type -P curl)" "$@"; }
skopeo() { enter "$(type -P skopeo)" "$@"; }

# The image of first-container.md.
example_image() {
  mkdir -p "$BIN_SCRATCH/rootfs/bin" "$BIN_SCRATCH/rootfs/www"
  cp "$(type -P busybox)" "$BIN_SCRATCH/rootfs/bin/"
  local applet
  for applet in sh httpd hostname cat id sleep wget; do ln -sf busybox "$BIN_SCRATCH/rootfs/bin/$applet"; done
  echo "hello from shoal" > "$BIN_SCRATCH/rootfs/www/index.html"
  tar -C "$BIN_SCRATCH/rootfs" -c . > "$BIN_SCRATCH/rootfs.tar"
  shoal import -c 'CMD ["httpd", "-f", "-v", "-h", "/www"]' -c 'ENV PATH=/bin' "$BIN_SCRATCH/rootfs.tar" example/web:1 >/dev/null
}
# The mesh of first-cluster.md. Says n1 last.
example_mesh() {
  local token number
  on n1; shoal mesh up --detach --name n1 --listen 10.20.0.1:4700 >/dev/null
  token=$(shoal mesh token create)
  for number in 2 3; do on n$number; shoal mesh up --detach --name n$number --listen 10.20.0.$number:4700 --join "$token" >/dev/null; done
  on n1
  until [ "$(shoal mesh members | grep -ciw alive)" = 3 ]; do sleep 0.1; done
}
# podman with a store of its own and that image, in a view of cgroups that it accepts (pure v1 or pure v2: crun and podman refuse the hybrid).
podman_here() {
  cat > "$BIN_SCRATCH/storage.conf" <<EOF
[storage]
driver = "vfs"
graphroot = "$BIN_SCRATCH/podman"
runroot = "$BIN_SCRATCH/podman-run"
EOF
  cat > "$BIN_SCRATCH/containers.conf" <<'EOF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
EOF
  example_image
  podman import -q "$BIN_SCRATCH/rootfs.tar" example/web:1 >/dev/null
}
podman() {
  local conf="$BIN_SCRATCH/containers.conf"
  # What the reader wrote comes after what this machine needs.
  [ -z "${CONTAINERS_CONF:-}" ] || { cat "$conf" "$CONTAINERS_CONF" | awk '/^\[engine\]$/ && seen++ {next} {print}' > "$BIN_SCRATCH/both.conf"; conf=$BIN_SCRATCH/both.conf; }
  enter env CONTAINERS_STORAGE_CONF="$BIN_SCRATCH/storage.conf" CONTAINERS_CONF="$conf" unshare --mount sh -c \
    'mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec "$@"' sh "$(type -P podman)" "$@"
}
on n1
