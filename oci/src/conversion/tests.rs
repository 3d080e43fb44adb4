//! docker's documented rules.

use super::*;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn wish() -> Wish {
    Wish { rootfs: "/r".into(), args: words("sh"), kernel: (6, 18), ..Wish::default() }
}

#[test]
fn a_command_replaces_cmd_and_an_entrypoint_clears_both() {
    let (entry, cmd) = (words("/entry"), words("a b"));
    assert_eq!(argv(&entry, &cmd, None, &[]).unwrap(), words("/entry a b"));
    assert_eq!(argv(&entry, &cmd, None, &words("c")).unwrap(), words("/entry c"));
    assert_eq!(argv(&entry, &cmd, Some(&words("own")), &[]).unwrap(), words("own"));
    assert_eq!(argv(&entry, &cmd, Some(&[]), &words("c")).unwrap(), words("c"));
    assert_eq!(argv(&entry, &cmd, Some(&[]), &[]), Err(ConversionError::NoCommand));
}

#[test]
fn later_variables_replace_earlier_ones_and_a_path_is_always_there() {
    let env = environment(&words("A=1 PATH=/x"), &words("A=2 B=3"), "h", false);
    assert_eq!(env, words("PATH=/x HOSTNAME=h A=2 B=3"));
    assert!(environment(&[], &[], "h", true).contains(&"TERM=xterm".to_owned()));
}

#[test]
fn capabilities_follow_add_and_drop() {
    let set = |add: &str, drop: &str| capability::effective(false, &words(add), &words(drop)).unwrap();
    assert_eq!(set("", ""), default_set());
    assert_eq!(set("", "ALL"), Vec::<String>::new());
    assert_eq!(set("net_admin", "all"), ["CAP_NET_ADMIN"]);
    assert!(!set("", "CAP_CHOWN").contains(&"CAP_CHOWN".to_owned()));
    let all_but_one = set("ALL", "SYS_ADMIN");
    assert_eq!(all_but_one.len(), capability::ALL.len() - 1);
    assert!(capability::effective(false, &words("FLY"), &[]).is_err());
}

fn default_set() -> Vec<String> {
    capability::ALL.iter().filter(|name| capability::DEFAULT.contains(name)).map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_user_without_root_keeps_only_the_bounding_set() {
    let made = spec(&Wish { user: User { uid: 1000, ..User::default() }, ..wish() }).unwrap();
    let capabilities = made.process.unwrap().capabilities.unwrap();
    assert!(capabilities.effective.is_empty() && capabilities.permitted.is_empty());
    assert_eq!(capabilities.bounding.len(), 14);
    assert!(capabilities.inheritable.is_empty() && capabilities.ambient.is_empty());
}

#[test]
fn privileged_means_no_filter_no_mask_all_devices() {
    let linux = spec(&Wish { privileged: true, ..wish() }).unwrap().linux.unwrap();
    assert!(linux.seccomp.is_none() && linux.masked_paths.is_empty() && linux.readonly_paths.is_empty());
    assert!(linux.resources.unwrap().devices[0].allow);
}

#[test]
fn a_mount_of_the_user_replaces_the_default_one_at_its_place() {
    let own = Mount { destination: "/dev/shm/".into(), kind: Some("tmpfs".into()), ..Mount::default() };
    let mounts = spec(&Wish { mounts: vec![own.clone()], ..wish() }).unwrap().mounts;
    assert_eq!(mounts.iter().filter(|mount| mount.destination.starts_with("/dev/shm")).collect::<Vec<_>>(), [&own]);
}

#[test]
fn cpus_become_a_quota() {
    let cpu = |nano| {
        let made = spec(&Wish { nano_cpus: Some(nano), ..wish() }).unwrap();
        made.linux.unwrap().resources.unwrap().cpu.unwrap()
    };
    assert_eq!((cpu(1_500_000_000).quota, cpu(1_500_000_000).period), (Some(150_000), Some(100_000)));
}

#[test]
fn kernel_parameters_of_the_host_are_refused() {
    let with = |name: &str, network| {
        let sysctl = [(name.to_owned(), "1".to_owned())].into();
        spec(&Wish { sysctl, network, ..wish() })
    };
    assert!(with("net.core.somaxconn", Namespace::Private).is_ok());
    assert!(with("net.core.somaxconn", Namespace::Host).is_err());
    assert!(with("kernel.panic", Namespace::Private).is_err());
}

#[test]
fn the_default_filter_opens_what_capabilities_allow() {
    let allows = |capabilities: &[&str], name: &str| {
        let capabilities: Vec<String> = capabilities.iter().map(|cap| (*cap).to_owned()).collect();
        let profile = seccomp::default_profile(&capabilities, (6, 18));
        profile.syscalls.iter().any(|rule| {
            rule.action == "SCMP_ACT_ALLOW" && rule.args.is_empty() && rule.names.iter().any(|known| known == name)
        })
    };
    assert!(allows(&[], "openat2") && !allows(&[], "clone"));
    assert!(!allows(&[], "mount") && allows(&["CAP_SYS_ADMIN"], "mount"));
    assert!(!allows(&[], "bpf") && allows(&["CAP_BPF"], "bpf"));
    assert!(!allows(&[], "kexec_load") && !allows(&["CAP_SYS_ADMIN"], "kexec_load"));
}
