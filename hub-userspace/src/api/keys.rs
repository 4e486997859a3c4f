//! Keys of objects, as bodies of requests and in answers. Those of connections, customer gateways and segments are read
//! like a section of the file; the schemas here only describe them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    config::in_force::{deserialize_priority, deserialize_weight},
    store::Keys,
};

/// The keys of a route, without those in its path.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteBody {
    /// 100 by default.
    #[serde(default, deserialize_with = "deserialize_weight")]
    #[schemars(range(max = 100))]
    pub weight: Option<u8>,
    /// False by default.
    pub publish: Option<bool>,
}

/// The keys of a policy route, without those in its path.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyRouteBody {
    /// 10 by default.
    #[serde(default, deserialize_with = "deserialize_priority")]
    #[schemars(range(min = 1, max = 100))]
    pub priority: Option<u8>,
    /// 100 by default.
    #[serde(default, deserialize_with = "deserialize_weight")]
    #[schemars(range(max = 100))]
    pub weight: Option<u8>,
    /// False by default.
    pub publish: Option<bool>,
}

/// A table of keys with the schema that `$properties` returns.
macro_rules! keys {
    ($(#[$documentation:meta])* $name:ident: $properties:ident, $section:literal) => {
        $(#[$documentation])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Keys);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let mut schema = table(&$properties());
                let text = concat!("The keys of `", $section, "` in the configuration file; `null` removes a key.");
                schema["description"] = text.into();
                Schema::try_from(schema).unwrap_or_default()
            }
        }
    };
}

keys!(
    /// The keys of `[connection.NAME]`.
    ConnectionKeys: connection, "[connection.NAME]"
);
keys!(
    /// The keys of `[customer_gateway.NAME]`.
    CustomerGatewayKeys: customer_gateway, "[customer_gateway.NAME]"
);
keys!(
    /// The keys of `[segment.NAME]`.
    SegmentKeys: segment, "[segment.NAME]"
);

fn connection() -> Value {
    json!({
        "customer_gateway": a("string"),
        "segment": a("string"),
        "enabled": a("boolean"),
        "interface": a("string"),
        "peer": a("string"),
        "local_cidrs": list(&a("string")),
        "remote_cidrs": list(&a("string")),
        "translate": list(&table(&json!({ "site": a("string"), "hub": a("string") }))),
        "health_check": health_check(),
        "up_delay": a("string"),
        "ipsec": table(&json!({
            "psk_file": a("string"),
            "certificate": a("string"),
            "private_key": a("string"),
            "ca": a("string"),
            "local_id": a("string"),
            "remote_id": a("string"),
            "start": one_of(&["trap", "start", "none"]),
            "if_id": a("integer"),
            "create_interface": a("boolean"),
            "interface_mtu": { "anyOf": [one_of(&["auto"]), a("integer")] },
            "encap": a("boolean"),
            "dpd_delay": a("string"),
            "allow_weak": a("boolean"),
            "ike": table(&json!({
                "version": a("integer"),
                "mode": one_of(&["main", "aggressive"]),
                "proposals": list(&a("string")),
                "lifetime": a("string"),
            })),
            "esp": table(&json!({
                "proposals": list(&a("string")),
                "lifetime": a("string"),
                "pfs": a("boolean"),
                "per_cpu_sas": a("boolean"),
            })),
        })),
        "selectors": one_of(&["file", "ike", "xfrm"]),
        "reverse_path": one_of(&["strict", "off"]),
        "mss_clamp": { "anyOf": [one_of(&["auto", "off"]), a("integer")] },
        "tunnels": list(&table(&json!({
            "name": a("string"),
            "interface": a("string"),
            "weight": a("integer"),
            "customer_gateway": a("string"),
            "peer": a("string"),
            "health_check": health_check(),
            "ipsec": table(&json!({
                "if_id": a("integer"),
                "start": one_of(&["trap", "start", "none"]),
                "local_id": a("string"),
                "remote_id": a("string"),
            })),
        }))),
    })
}

fn health_check() -> Value {
    table(&json!({
        "source": a("string"),
        "destination": { "anyOf": [a("string"), list(&a("string"))] },
        "interval": a("string"),
        "retries": a("integer"),
        "require": one_of(&["any", "all"]),
        "degraded": table(&json!({ "loss": a("number"), "window": a("integer") })),
        "when_down": one_of(&["keep", "revoke"]),
    }))
}

fn customer_gateway() -> Value {
    json!({ "address": a("string") })
}

fn segment() -> Value {
    json!({ "reaches": list(&a("string")) })
}

fn a(kind: &str) -> Value {
    json!({ "type": [kind, "null"] })
}

fn one_of(values: &[&str]) -> Value {
    let values = values.iter().map(|value| json!(value)).chain([Value::Null]);
    json!({ "enum": values.collect::<Vec<_>>() })
}

fn list(items: &Value) -> Value {
    json!({ "type": ["array", "null"], "items": items })
}

fn table(properties: &Value) -> Value {
    json!({ "type": ["object", "null"], "properties": properties })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::known_keys;

    #[test]
    fn schemas_have_exactly_the_keys_of_the_file() {
        let all = json!({ "connection": connection(), "customer_gateway": customer_gateway(), "segment": segment() });
        for (pointer, keys) in known_keys() {
            let described = all.pointer(pointer).and_then(Value::as_object).unwrap_or_else(|| panic!("no {pointer}"));
            let described: BTreeSet<&str> = described.keys().map(String::as_str).collect();
            assert_eq!(described, keys.iter().copied().collect(), "{pointer}");
        }
    }
}
