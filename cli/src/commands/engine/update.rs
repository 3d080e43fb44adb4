//! `rename` and `update`.

use super::{each, explain, open};
use crate::commands::Global;
use crate::error::Error;
use engine::wish;
use std::process::ExitCode;

/// Give a container another name
#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    /// The container
    container: String,
    /// Its new name
    name: String,
}

/// Change limits and the restart policy of containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Limit memory
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Limit memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Limit CPUs
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Share of CPU
    #[arg(short = 'c', long, value_name = "N")]
    cpu_shares: Option<u64>,
    /// CPU period in µs
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// CPU time per period in µs
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPUs it may run on
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Limit processes
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Share of block I/O
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Restart policy
    #[arg(long, value_name = "POLICY")]
    restart: Option<engine::restart::Policy>,
    /// The containers
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) fn rename(global: &Global, args: &RenameArgs) -> Result<ExitCode, Error> {
    open(global)?.rename(&args.container, &args.name).map_err(explain)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let bytes = |text: &Option<String>| -> Result<Option<i64>, Error> {
        match text.as_deref() {
            None => Ok(None),
            Some("-1") => Ok(Some(-1)),
            Some(text) => Ok(Some(i64::try_from(wish::bytes(text)?)?)),
        }
    };
    let (memory, swap, reservation) =
        (bytes(&args.memory)?, bytes(&args.memory_swap)?, bytes(&args.memory_reservation)?);
    let cpus = args.cpus.as_deref().map(wish::cpus_to_nanos).transpose()?;
    each(&args.containers, |name| {
        engine.update(
            name,
            &|resources| {
                resources.memory = memory.or(resources.memory);
                resources.memory_swap = swap.or(resources.memory_swap);
                resources.memory_reservation = reservation.or(resources.memory_reservation);
                resources.nano_cpus = cpus.or(resources.nano_cpus);
                resources.cpu_shares = args.cpu_shares.or(resources.cpu_shares);
                resources.cpu_period = args.cpu_period.or(resources.cpu_period);
                resources.cpu_quota = args.cpu_quota.or(resources.cpu_quota);
                resources.pids = args.pids_limit.or(resources.pids);
                resources.blkio_weight = args.blkio_weight.or(resources.blkio_weight);
                if let Some(cpus) = &args.cpuset_cpus {
                    resources.cpuset_cpus.clone_from(cpus);
                }
                if let Some(mems) = &args.cpuset_mems {
                    resources.cpuset_mems.clone_from(mems);
                }
            },
            args.restart,
        )?;
        Ok(Some(name.to_owned()))
    })
}
