//! DescribeConfigs: every setting of a topic or a node, with value, source, synonyms and documentation. Settings of a node
//! are asked of that node.

use super::Made;
use crate::kafka::{
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeConfigsRequest, DescribeConfigsResponse,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym},
    },
    protocol::StrBytes,
};
use protocol::{
    id::NodeId,
    service::broker::{AdminError, ConfigEntry, ConfigResource, ConfigSource, DescribeConfig},
};

const TOPIC: i8 = 2;
const NODE: i8 = 4;
/// Kafka's code of the type of settings that are secret.
const PASSWORD: i8 = 9;
/// The first version whose answer has types and documentation.
const DOCUMENTATION_SINCE: i16 = 3;

/// Handles DescribeConfigs.
pub(crate) fn handle(request: Request) -> Handled {
    let message: DescribeConfigsRequest = request.decode()?;
    let call = request.call;
    let (synonyms, documentation) = (message.include_synonyms, message.include_documentation);
    let made: Vec<(DescribeConfigsResource, Made<Vec<ConfigEntry>, AdminError>)> = message
        .resources
        .into_iter()
        .map(|resource| {
            let made = describe(&call, &resource);
            (resource, made)
        })
        .collect();
    let answering = call.clone();
    Ok(call.later(async move {
        let mut results = Vec::with_capacity(made.len());
        for (resource, made) in made {
            let outcome = super::settle(made).await;
            let (code, text) = answering.verdict(&outcome);
            let wanted = resource.configuration_keys.filter(|keys| !keys.is_empty());
            let is_wanted = |name: &str| wanted.as_ref().is_none_or(|keys| keys.iter().any(|key| key.as_str() == name));
            let entries = outcome.unwrap_or_default().into_iter().filter(|entry| is_wanted(&entry.name));
            let entries =
                entries.map(|e| setting(e, synonyms, documentation && answering.version >= DOCUMENTATION_SINCE));
            let result = DescribeConfigsResult::default()
                .with_error_code(code)
                .with_error_message(text)
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name);
            results.push(result.with_configs(entries.collect()));
        }
        DescribeConfigsResponse::default().with_results(results)
    }))
}

fn describe(call: &Call, resource: &DescribeConfigsResource) -> Made<Vec<ConfigEntry>, AdminError> {
    let resource = self::resource(resource.resource_type, &resource.resource_name)?;
    let broker = match resource {
        ConfigResource::Node(Some(node)) if node != call.shared.node => call
            .shared
            .nodes
            .broker(node)
            .ok_or_else(|| Failure::new(ResponseError::InvalidRequest, format!("there is no broker {node}")))?,
        ConfigResource::Topic(_) | ConfigResource::Node(_) => call.shared.local_broker()?,
    };
    Ok(broker.describe_config(DescribeConfig { resource }))
}

/// Whose settings a request means.
///
/// # Errors
/// `INVALID_REQUEST` for anything but topics and brokers.
pub(super) fn resource(kind: i8, name: &str) -> Result<ConfigResource, Failure> {
    match kind {
        TOPIC => Ok(ConfigResource::Topic(name.to_owned())),
        NODE if name.is_empty() => Ok(ConfigResource::Node(None)),
        NODE => match name.parse() {
            Ok(id) => Ok(ConfigResource::Node(Some(NodeId(id)))),
            Err(_) => {
                let text = format!("\"{name}\" is not the id of a broker");
                Err(Failure::new(ResponseError::InvalidRequest, text))
            }
        },
        other => {
            let text = format!("resources of type {other} have no settings here; topics (2) and brokers (4) do");
            Err(Failure::new(ResponseError::InvalidRequest, text))
        }
    }
}

/// Kafka's code of where a value comes from.
pub(super) const fn source(source: ConfigSource) -> i8 {
    match source {
        ConfigSource::Topic => 1,
        ConfigSource::DynamicNode => 2,
        ConfigSource::DynamicDefault => 3,
        ConfigSource::Static => 4,
        ConfigSource::Default => 5,
    }
}

fn setting(entry: ConfigEntry, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let secret = entry.kind == PASSWORD;
    let value = |value: Option<String>| value.filter(|_| !secret).map(StrBytes::from_string);
    let synonym = |(name, held, from): (String, Option<String>, ConfigSource)| {
        let synonym =
            DescribeConfigsSynonym::default().with_name(StrBytes::from_string(name)).with_source(source(from));
        synonym.with_value(value(held))
    };
    let synonyms = entry.synonyms.into_iter().filter(|_| synonyms).map(synonym).collect();
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_string(entry.name))
        .with_value(value(entry.value))
        .with_read_only(entry.read_only)
        .with_config_source(source(entry.source))
        .with_is_sensitive(secret)
        .with_synonyms(synonyms)
        .with_config_type(entry.kind)
        .with_documentation(documentation.then(|| StrBytes::from_string(entry.documentation)))
}
