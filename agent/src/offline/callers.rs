//! The command `ringfence callers`.

use ringfence_policy::callers::{self, Caller, Callers, Egress, Through};

use super::answers;
use crate::cli::{CallersArgs, Output};
use crate::failure::{Failure, Found, Outcome};
use crate::output::{Column, print, print_json, table};

/// Prints who may call a service.
pub fn run(args: &CallersArgs) -> Outcome {
    let index = super::load(&args.cluster, &args.policy)?;
    let found = callers::callers(&index, &args.service).map_err(Failure::input)?;
    match args.output {
        Output::Json => print_json(&answers::callers(&found))?,
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
    let mut columns = vec![
        Column::text("caller", |one: &Caller| one.caller.clone()),
        Column::text("ports", |one: &Caller| {
            let partly = if one.partly { " (partly)" } else { "" };
            format!("{}{partly}", ports(&one.ports))
        }),
    ];
    if staged {
        columns.push(Column::text("once enforced", |one: &Caller| {
            ports(&one.once_enforced)
        }));
    }
    columns.push(Column::text("egress", |one: &Caller| {
        egress(one.egress).to_owned()
    }));
    columns.push(Column::text("through", |one: &Caller| {
        let through: Vec<String> = one.through.iter().map(rule).collect();
        through.join("; ")
    }));
    format!("{headline}\n\n{}", table(&columns, &found.callers))
}

fn ports(ports: &[String]) -> String {
    match ports {
        [] => "none".to_owned(),
        some => some.join(","),
    }
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
