//! ApiVersions: the router's table, and the names of clients that may see it (KIP-511).

use crate::kafka::{
    error::Failure,
    request::{Handled, Request},
    router,
};
use kafka_protocol::{
    ResponseError,
    messages::{ApiVersionsRequest, ApiVersionsResponse},
};

/// The first version in which clients name themselves.
const SOFTWARE_SINCE: i16 = 3;

/// Handles ApiVersions.
pub(crate) fn handle(request: Request) -> Handled {
    let message: ApiVersionsRequest = request.decode()?;
    let call = request.call;
    let named = is_software_name(&message.client_software_name) && is_software_name(&message.client_software_version);
    if call.version >= SOFTWARE_SINCE && !named {
        let text = "client software name and version must be letters and digits, with '-' and '.' inside";
        let failure = Failure::new(ResponseError::InvalidRequest, text);
        return Ok(call.now(&ApiVersionsResponse::default().with_error_code(call.code(&failure))));
    }
    Ok(call.now(&ApiVersionsResponse::default().with_api_keys(router::advertised())))
}

/// Letters and digits, with `-` and `.` anywhere but at the ends.
fn is_software_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.');
    let ends = [name.as_bytes().first(), name.as_bytes().last()];
    ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric)) && name.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::is_software_name;

    #[test]
    fn software_names_follow_kafkas_rule() {
        for good in ["a", "librdkafka", "apache-kafka-java", "4.1.0", "v2.12.1-rc.1"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".", "a b", "a_b", "ä"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
