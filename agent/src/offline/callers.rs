//! The command `ringfence callers`.

use ringfence_policy::callers::{self, Caller, Callers, Egress, Through};

use crate::cli::{CallersArgs, Output};
use crate::failure::{Failure, Found, Outcome};
use crate::output::{print, print_json, table};

/// Prints who may call a service.
pub fn run(args: &CallersArgs) -> Outcome {
    let index = super::load(&args.cluster, &args.policy)?;
    let found = callers::callers(&index, &args.service).map_err(Failure::input)?;
    match args.output {
        Output::Json => print_json(&found)?,
        Output::Table => print(&text(&found))?,
    }
    Ok(Found::Fine)
}

/// Formats what isolates the service, then one row per caller.
fn text(found: &Callers) -> String {
    let Callers { service, .. } = found;
    let named: Vec<String> = found
        .policies
        .iter()
        .map(|p| format!("{}{}", p.policy, if p.staged { " [staged]" } else { "" }))
        .collect();
    let headline = match (found.isolated, found.policies.is_empty()) {
        (true, true) => format!("{service} is under quarantine."),
        (true, false) => format!("Callers of {service}, under {}:", named.join(", ")),
        (false, true) => format!("Nothing isolates {service}: any address may call it."),
        (false, false) => format!(
            "Nothing isolates {service} yet: any address may call it, under {}.",
            named.join(", ")
        ),
    };
    if found.callers.is_empty() {
        return format!("{headline}\n\nNobody may call it.\n");
    }
    let staged = found.policies.iter().any(|p| p.staged);
    let header = ["caller", "ports", "once enforced", "egress", "through"];
    let mut header = header.to_vec();
    let mut rows: Vec<Vec<String>> = found.callers.iter().map(row).collect();
    if !staged {
        header.remove(2);
        for row in &mut rows {
            row.remove(2);
        }
    }
    format!("{headline}\n\n{}", table(&header, rows, &[]))
}

fn row(caller: &Caller) -> Vec<String> {
    let ports = |ports: &[String]| match ports {
        [] => "none".to_owned(),
        some => some.join(","),
    };
    let partly = if caller.partly { " (partly)" } else { "" };
    let through: Vec<String> = caller.through.iter().map(rule).collect();
    vec![
        caller.caller.clone(),
        format!("{}{partly}", ports(&caller.ports)),
        ports(&caller.once_enforced),
        egress(caller.egress).to_owned(),
        through.join("; "),
    ]
}

fn egress(egress: Egress) -> &'static str {
    match egress {
        Egress::Allowed => "allowed",
        Egress::Staged => "staged",
        Egress::Partly => "partly",
        Egress::Denied => "denied",
        Egress::None => "-",
    }
}

/// Formats the rule that admits a caller. A label of the caller is sufficient; the mode label that
/// the caller gets past is the same for all callers.
fn rule(through: &Through) -> String {
    let staged = if through.staged { " [staged]" } else { "" };
    match through.policy.as_str() {
        policy if policy.is_empty() || policy.starts_with("label ") => {
            format!("{}{staged}", through.rule)
        }
        policy => format!("{policy} {}{staged}", through.rule),
    }
}

#[cfg(test)]
#[path = "callers_tests.rs"]
mod tests;
