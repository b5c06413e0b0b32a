use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::{Limits, Policy};
use super::quota::Quota;

/// Serializes the quota as text, for example `"100/1m burst 20"`.
impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QuotaVisitor;
        impl Visitor<'_> for QuotaVisitor {
            type Value = Quota;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quota such as \"100/1m\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Quota, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(QuotaVisitor)
    }
}

/// Serializes the limits as a map from policy to quota, in order.
impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.policies().len()))?;
        for policy in self.policies() {
            map.serialize_entry(policy.name(), policy.quota())?;
        }
        map.end()
    }
}

/// Accepts a map from policy to quota, or a single quota, which is named `default`.
impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LimitsVisitor;
        impl<'de> Visitor<'de> for LimitsVisitor {
            type Value = Limits;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quota such as \"100/1m\", or a map of named quotas")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Limits, E> {
                text.parse::<Quota>().map(Limits::from).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Limits, A::Error> {
                let mut policies = Vec::new();
                while let Some((name, quota)) = map.next_entry::<String, Quota>()? {
                    policies.push(Policy::new(name, quota));
                }
                Limits::new(policies).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(LimitsVisitor)
    }
}
