//! The hugetlb controller: pages in use and pages reserved, by size. runtime-spec config-linux.md "Huge page limits"

use oci::spec::LinuxHugepageLimit;

use super::super::dir::Dir;
use super::super::error::CgroupError;
use super::super::layout::Version;

pub(in super::super) fn apply(
    dir: Dir<'_>,
    version: Version,
    limits: &[LinuxHugepageLimit],
) -> Result<(), CgroupError> {
    let suffix = match version {
        Version::V1 => "limit_in_bytes",
        Version::V2 => "max",
    };
    for limit in limits {
        let size = page_size(&limit.page_size)?;
        let value = limit.limit.to_string();
        let name = format!("hugetlb.{size}.{suffix}");
        match dir.write(&name, &value) {
            Err(error) if error.is_missing() => {
                return Err(CgroupError::Unavailable {
                    what: format!("huge page limit for pages of {size}"),
                    reason: format!("this host has no {name}: the page size does not exist here"),
                });
            }
            result => result?,
        }
        // Limits on reservations (since 5.7) stop mmap(2) before a fault kills the process.
        match dir.write(&format!("hugetlb.{size}.rsvd.{suffix}"), &value) {
            Err(error) if error.is_missing() => {}
            result => result?,
        }
    }
    Ok(())
}

/// A size as the kernel writes it in file names: digits and KB, MB or GB.
fn page_size(text: &str) -> Result<&str, CgroupError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let fits = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && ["KB", "MB", "GB"].contains(&&text[digits.len()..]);
    if fits {
        return Ok(text);
    }
    Err(CgroupError::Invalid {
        what: "huge page size",
        value: text.to_owned(),
        reason: "expected digits and KB, MB or GB, as 2MB".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Tree;
    use super::*;

    #[test]
    fn reservations_are_limited_where_the_kernel_can() {
        let limits = [LinuxHugepageLimit { page_size: "2MB".to_owned(), limit: 4096 }];
        let tree = Tree::new(&[("hugetlb.2MB.limit_in_bytes", ""), ("hugetlb.2MB.rsvd.limit_in_bytes", "")]);
        apply(tree.dir(), Version::V1, &limits).unwrap();
        assert_eq!(tree.text("hugetlb.2MB.rsvd.limit_in_bytes"), "4096");
        let tree = Tree::new(&[("hugetlb.2MB.max", "")]);
        apply(tree.dir(), Version::V2, &limits).unwrap();
        assert_eq!(tree.text("hugetlb.2MB.max"), "4096");
    }

    #[test]
    fn a_size_that_is_a_path_or_unknown_is_refused() {
        for size in ["../../x", "", "MB", "2mb", "2MB/x"] {
            let limits = [LinuxHugepageLimit { page_size: size.to_owned(), limit: 1 }];
            assert!(apply(Tree::new(&[]).dir(), Version::V2, &limits).is_err(), "{size}");
        }
    }
}
