//! Who a certificate of the fleet's CA says that its holder is: the URI name in it, in the manner of SPIFFE.
//!
//! `sealane://FLEET/region/REGION/agent/ID` and `…/proxy/ID`. Host names play no part: an agent is the same wherever it is
//! reached. It does not know who signed a certificate; [`crate::keyring`] does.

use std::fmt;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes revisions in and commands proxies.
    Agent,
    /// It serves.
    Proxy,
}

/// A member of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its fleet.
    pub fleet: String,
    /// Its region.
    pub region: String,
    /// What it does.
    pub role: Role,
    /// Its id.
    pub id: String,
}

impl Role {
    /// As in names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Proxy => "proxy",
        }
    }
}

impl Member {
    /// From such a name.
    #[must_use]
    pub fn parse(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix("sealane://")?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [fleet, "region", region, role, id] = parts[..] else { return None };
        let role = [Role::Agent, Role::Proxy].into_iter().find(|one| one.as_str() == role)?;
        if [fleet, region, id].iter().any(|part| part.is_empty()) {
            return None;
        }
        Some(Self { fleet: fleet.to_owned(), region: region.to_owned(), role, id: id.to_owned() })
    }

    /// The one name of this kind in a certificate.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let mut members = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Self::parse(uri),
            _ => None,
        });
        let only = members.next()?;
        members.next().is_none().then_some(only)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sealane://{}/region/{}/{}/{}", self.fleet, self.region, self.role.as_str(), self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_fleet_region_role_and_id_and_nothing_else_is_one() {
        let text = "sealane://f/region/eu/proxy/p-1";
        let member = Member::parse(text).unwrap();
        assert_eq!((member.role, member.id.as_str(), member.to_string().as_str()), (Role::Proxy, "p-1", text));
        for bad in [
            "",
            "https://f/region/eu/proxy/p",
            "sealane://f/region/eu/proxy/",
            "sealane:///region/eu/proxy/p",
            "sealane://f/region/eu/admin/p",
            "sealane://f/region/eu/proxy/p/agent/a",
            "sealane://f/zone/eu/proxy/p",
        ] {
            assert_eq!(Member::parse(bad), None, "{bad}");
        }
    }
}
