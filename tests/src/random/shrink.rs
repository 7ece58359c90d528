//! From a cluster that shows a disagreement to a small one that still does.

use serde_json::Value;

/// Where a piece stands in an object: keys and indexes from its root.
type Path = Vec<String>;

/// Drops objects, then labels, rules, fields and list items, one at a time,
/// for as long as `shows` holds for what is left.
pub fn shrink(objects: &[Value], shows: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut left = objects.to_vec();
    loop {
        let before = left.clone();
        drop_objects(&mut left, &shows);
        for which in 0..left.len() {
            drop_pieces(&mut left, which, &shows);
        }
        if left == before {
            return left;
        }
    }
}

fn drop_objects(left: &mut Vec<Value>, shows: &impl Fn(&[Value]) -> bool) {
    let mut at = 0;
    while at < left.len() {
        let dropped = left.remove(at);
        if !shows(left) {
            left.insert(at, dropped);
            at += 1;
        }
    }
}

fn drop_pieces(left: &mut [Value], which: usize, shows: &impl Fn(&[Value]) -> bool) {
    // From the back, so that an index stays right when a later item goes.
    for path in paths(&left[which]).into_iter().rev() {
        let kept = left[which].clone();
        remove(&mut left[which], &path);
        if !shows(left) {
            left[which] = kept;
        }
    }
}

/// All pieces but those that say what object it is.
fn paths(object: &Value) -> Vec<Path> {
    let mut all = Vec::new();
    walk(object, &mut Vec::new(), &mut all);
    let identity = [
        "apiVersion",
        "kind",
        "metadata",
        "metadata/name",
        "metadata/namespace",
    ];
    all.retain(|path| !identity.contains(&path.join("/").as_str()));
    all
}

fn walk(value: &Value, at: &mut Path, all: &mut Vec<Path>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(items) => (0..).map(|n: usize| n.to_string()).zip(items).collect(),
        _ => return,
    };
    for (step, child) in children {
        at.push(step);
        all.push(at.clone());
        walk(child, at, all);
        at.pop();
    }
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((last, way)) = path.split_last() else {
        return;
    };
    let mut at = object;
    for step in way {
        let next = match at {
            Value::Object(map) => map.get_mut(step),
            Value::Array(items) => step.parse().ok().and_then(|n: usize| items.get_mut(n)),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return,
        }
    }
    match at {
        Value::Object(map) => {
            map.remove(last);
        }
        Value::Array(items) => {
            if let Some(n) = last.parse().ok().filter(|n| *n < items.len()) {
                items.remove(n);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shrinking_leaves_only_what_shows_it() {
        let objects = [
            json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"x": "1", "y": "2"}}}),
            json!({"kind": "Pod", "metadata": {"name": "b"}, "list": [1, 2, 3]}),
        ];
        let left = shrink(&objects, |left| {
            left.iter().any(|o| o["metadata"]["labels"]["y"] == "2")
        });
        let small = json!({"kind": "Pod", "metadata": {"name": "a", "labels": {"y": "2"}}});
        assert_eq!(left, [small]);
    }
}
