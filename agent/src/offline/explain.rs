//! The command `ringfence explain`.

use ringfence_policy::explain::{
    self, Calls, Effect, Explanation, Fix, Form, Party, Side, Verdict, Via,
};

use super::answers;
use crate::cli::{ExplainArgs, Output};
use crate::failure::{Failure, Found, Outcome};
use crate::output::{Paint, print, print_json};

/// Prints the verdict and its reasons; exits 1 if the call is denied.
pub fn run(args: &ExplainArgs) -> Outcome {
    let port = super::port(&args.port)?;
    let index = super::load(&args.cluster, &args.policy)?;
    let explanation =
        explain::explain(&index, &args.from, &args.to, &port).map_err(Failure::input)?;
    match args.output {
        Output::Json => print_json(&answers::explanation(&explanation))?,
        Output::Table => print(&text(&explanation, Paint::stdout()))?,
    }
    Ok(match explanation.verdict {
        Verdict::Denied => Found::Something,
        Verdict::Allowed | Verdict::Audited => Found::Fine,
    })
}

/// Formats the verdict, then each direction, then what to paste.
fn text(explanation: &Explanation, paint: Paint) -> String {
    let Explanation { from, to, port, .. } = explanation;
    let headline = format!("{} -> {} {port}", party(from), party(to));
    let mut lines = vec![format!(
        "{}  {headline}",
        verdict(explanation.verdict, paint)
    )];
    if let Some(via) = &explanation.via {
        through(via, paint, &mut lines);
    }
    if let Some([four, six]) = explanation.families {
        let [four, six] = [four, six].map(|of| verdict(of, paint));
        lines.push(format!(
            "over IPv4: {four}, over IPv6: {six}; the worse is explained"
        ));
    }
    lines.extend(explanation.note.clone());
    for side in [&explanation.egress, &explanation.ingress] {
        lines.push(String::new());
        describe(side, paint, &mut lines);
    }
    if !explanation.fix.is_empty() {
        lines.push(String::new());
        lines.push(paint.bold("To allow it"));
        for (n, fix) in explanation.fix.iter().enumerate() {
            if n > 0 {
                lines.push("---".into());
            }
            paste(fix, &mut lines);
        }
        if let Some(effect) = &explanation.effect {
            beside(effect, &mut lines);
        }
    }
    lines.join("\n") + "\n"
}

/// Formats the called Service, and the verdict for each backend.
fn through(via: &Via, paint: Paint, lines: &mut Vec<String>) {
    let Via {
        service,
        address,
        port,
        backends,
    } = via;
    lines.push(format!(
        "through Service {service} at {address} {port}, decided by backend:"
    ));
    lines.extend(backends.iter().map(|backend| {
        let verdict = verdict(backend.verdict, paint);
        format!("  {verdict}  {} {}", backend.name, backend.port)
    }));
}

/// Formats a party's name, and its service if that has a different name.
fn party(party: &Party) -> String {
    let Party { name, workload, .. } = party;
    if name == workload {
        name.clone()
    } else {
        format!("{name} ({workload})")
    }
}

fn verdict(verdict: Verdict, paint: Paint) -> String {
    match verdict {
        Verdict::Allowed => paint.green("ALLOWED"),
        Verdict::Audited => paint.yellow("ALLOWED, AUDITED"),
        Verdict::Denied => paint.red("DENIED"),
    }
}

fn describe(side: &Side, paint: Paint, lines: &mut Vec<String>) {
    let title = paint.bold(side.direction);
    lines.push(format!(
        "{title}: {}  {}",
        verdict(side.verdict, paint),
        side.reason
    ));
    let staged = |staged: bool| if staged { " [staged]" } else { "" };
    for isolation in &side.isolated_by {
        let staged = staged(isolation.staged);
        lines.push(format!(
            "  isolated by {}{staged}: {}",
            isolation.policy, isolation.why
        ));
    }
    for allowing in &side.allowed_by {
        let staged = staged(allowing.staged);
        lines.push(format!(
            "  allowed by {}{staged}: {}",
            allowing.policy, allowing.rule
        ));
    }
}

/// Formats a fix. The YAML starts at the left edge below a comment, so that it can be cut and
/// pasted as it is.
fn paste(fix: &Fix, lines: &mut Vec<String>) {
    let form = match fix.form {
        Form::Patch => "merge patch",
        Form::Object => "new object",
    };
    lines.push(format!("# {} ({form}): {}", fix.object, fix.sentence));
    lines.extend(fix.patch.lines().map(str::to_owned));
}

/// Formats the change's effect on other calls, as comments below it.
fn beside(effect: &Effect, lines: &mut Vec<String>) {
    for (does, calls) in [("closes", &effect.closes), ("also opens", &effect.opens)] {
        if calls.count > 0 {
            lines.push(format!("# This {does} {}", listed(calls)));
        }
    }
    if effect.partly {
        lines.push("# Not all other calls were compared: there are too many kinds of pods.".into());
    }
}

fn listed(Calls { count, calls }: &Calls) -> String {
    let named = calls.iter().map(|call| {
        let ports = call.ports.join(",");
        format!("{} -> {} {ports}", call.from, call.to)
    });
    let named: Vec<String> = named.collect();
    let rest = match count - calls.len() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let noun = if *count == 1 { "call" } else { "calls" };
    format!("{count} {noun}: {}{rest}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use ringfence_policy::config::Config;
    use ringfence_policy::index::Index;
    use ringfence_policy::model::{Object, Parsed};
    use serde_json::{Value, json};

    use super::*;

    fn index(objects: Vec<Value>) -> Index {
        let mut index = Index::new(Config::default());
        for object in objects {
            match Object::from_value(object).unwrap() {
                Parsed::Object(object) => index.apply(*object),
                Parsed::Ignored => panic!("ignored"),
            }
        }
        index
    }

    fn pod(name: &str, address: &str, labels: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "bank", "labels": labels},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "podIP": address},
        })
    }

    #[test]
    fn a_denial_reads_verdict_then_reasons_then_the_fix_to_paste() {
        let index = index(vec![
            pod("caller", "10.0.0.1", &json!({"app": "caller"})),
            pod(
                "ledger",
                "10.0.0.2",
                &json!({"app": "ledger", "ringfence.dev/ingress": "enforce"}),
            ),
        ]);
        let port = super::super::port("TCP/8080").unwrap();
        let found = explain::explain(&index, "bank/caller", "bank/ledger", &port).unwrap();
        let text = text(&found, Paint::off());
        let place = |part: &str| {
            text.find(part)
                .unwrap_or_else(|| panic!("no {part} in\n{text}"))
        };
        let order = [
            place("DENIED  bank/caller -> bank/ledger TCP/8080\n"),
            place("\negress: ALLOWED"),
            place("\ningress: DENIED"),
            place("\n  isolated by "),
            place("\nTo allow it\n# "),
            place("egress.ringfence.dev/ledger: \"true\""),
        ];
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn an_explanation_is_read_back_as_the_apis_type() {
        let ledger = json!({"app": "ledger", "ringfence.dev/ingress": "enforce"});
        let index = index(vec![
            pod("caller", "10.0.0.1", &json!({"app": "caller"})),
            pod("ledger", "10.0.0.2", &ledger),
        ]);
        let port = super::super::port("TCP/8080").unwrap();
        for from in ["bank/caller", "outside"] {
            let found = explain::explain(&index, from, "bank/ledger", &port).unwrap();
            let text = serde_json::to_string(&found).unwrap();
            let read: ringfence_api::offline::Explanation = serde_json::from_str(&text).unwrap();
            assert_eq!(read.verdict.as_str(), "denied");
            assert_eq!(answers::explanation(&found), read);
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
    }

    #[test]
    fn a_call_that_one_family_alone_may_make_is_denied_and_says_so() {
        let dual = |name: &str, last: u8| {
            let mut pod = pod(name, &format!("10.0.0.{last}"), &json!({"app": name}));
            pod["status"]["podIPs"] =
                json!([{"ip": format!("10.0.0.{last}")}, {"ip": format!("fd00::{last}")}]);
            pod
        };
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "p", "namespace": "bank"},
            "spec": {"podSelector": {"matchLabels": {"app": "ledger"}},
                "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
        });
        let index = index(vec![dual("caller", 1), dual("ledger", 2), policy]);
        let port = super::super::port("TCP/8080").unwrap();
        let explain = |from: &str, to: &str| explain::explain(&index, from, to, &port).unwrap();
        let found = explain("bank/caller", "bank/ledger");
        let text = text(&found, Paint::off());
        let line = "\nover IPv4: ALLOWED, over IPv6: DENIED; the worse is explained\n";
        assert!(text.contains(line), "{text}");
        assert!(text.starts_with("DENIED"), "{text}");
        assert_eq!(found.to.address.unwrap().to_string(), "fd00::2");
        // A question about one address is answered for that address only.
        let four = explain("bank/caller", "10.0.0.2");
        assert_eq!((four.verdict, four.families), (Verdict::Allowed, None));
        let six = explain("bank/caller", "fd00::2");
        assert_eq!((six.verdict, six.families), (Verdict::Denied, None));
    }

    #[test]
    fn documents_to_paste_are_apart_and_what_else_they_do_is_said() {
        let mut caller = pod("caller", "10.0.0.1", &json!({"app": "caller"}));
        caller["metadata"]["namespace"] = json!("shop");
        let labels = json!({"app": "ledger", "ringfence.dev/ingress": "enforce"});
        let index = index(vec![caller, pod("ledger", "10.0.0.2", &labels)]);
        let port = super::super::port("TCP/8080").unwrap();
        let found = explain::explain(&index, "shop/caller", "bank/ledger", &port).unwrap();
        let text = text(&found, Paint::off());
        let block = text.split("To allow it\n").nth(1).unwrap();
        let documents: Vec<&str> = block.split("---\n").collect();
        assert_eq!(documents.len(), 2, "{text}");
        assert!(
            documents[0].starts_with("# Pod shop/caller (merge patch): "),
            "{text}"
        );
        assert!(
            documents[1].starts_with("# Pod bank/ledger (merge patch): "),
            "{text}"
        );
        let said = "# This also opens 1 call: shop/caller -> bank/ledger ";
        assert!(documents[1].contains(said), "{text}");
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["fix"][0]["form"], "patch");
        assert_eq!(json["effect"]["closes"], json!({"count": 0, "calls": []}));
    }
}
