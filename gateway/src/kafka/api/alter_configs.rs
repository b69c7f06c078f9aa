//! AlterConfigs, which replaces all settings of a resource, and IncrementalAlterConfigs, which changes single ones
//! (KIP-339). Both are one call on the broker, all or nothing per resource.

use super::{Made, describe_configs};
use crate::kafka::{
    error::Failure,
    request::{Call, Handled, Request},
};
use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        alter_configs_response::AlterConfigsResourceResponse as Replaced,
        incremental_alter_configs_request::AlterableConfig,
        incremental_alter_configs_response::AlterConfigsResourceResponse as Changed,
    },
    protocol::StrBytes,
};
use protocol::service::broker::{AdminError, AlterConfig, ChangeOp, ConfigChange};
use std::collections::BTreeSet;

struct Alteration {
    kind: i8,
    name: StrBytes,
    made: Made<(), AdminError>,
}

/// Handles AlterConfigs.
pub(crate) fn replace(request: Request) -> Handled {
    let message: AlterConfigsRequest = request.decode()?;
    let call = request.call;
    let mut seen = BTreeSet::new();
    let mut alterations = Vec::with_capacity(message.resources.len());
    for resource in message.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let set = |name: StrBytes, value: Option<StrBytes>| ConfigChange {
            name: name.to_string(),
            op: ChangeOp::Set,
            value: value.map(|value| value.to_string()),
        };
        let changes = resource.configs.into_iter().map(|config| Ok(set(config.name, config.value))).collect();
        let made = alter(&call, &mut seen, (kind, &name), changes, (true, message.validate_only));
        alterations.push(Alteration { kind, name, made });
    }
    let answering = call.clone();
    Ok(call.later(async move {
        let mut responses = Vec::with_capacity(alterations.len());
        for Alteration { kind, name, made } in alterations {
            let (code, text) = answering.verdict(&super::settle(made).await);
            let response = Replaced::default().with_resource_type(kind).with_resource_name(name);
            responses.push(response.with_error_code(code).with_error_message(text));
        }
        AlterConfigsResponse::default().with_responses(responses)
    }))
}

/// Handles IncrementalAlterConfigs.
pub(crate) fn change(request: Request) -> Handled {
    let message: IncrementalAlterConfigsRequest = request.decode()?;
    let call = request.call;
    let mut seen = BTreeSet::new();
    let mut alterations = Vec::with_capacity(message.resources.len());
    for resource in message.resources {
        let (kind, name) = (resource.resource_type, resource.resource_name);
        let changes = resource.configs.into_iter().map(one_change).collect();
        let made = alter(&call, &mut seen, (kind, &name), changes, (false, message.validate_only));
        alterations.push(Alteration { kind, name, made });
    }
    let answering = call.clone();
    Ok(call.later(async move {
        let mut responses = Vec::with_capacity(alterations.len());
        for Alteration { kind, name, made } in alterations {
            let (code, text) = answering.verdict(&super::settle(made).await);
            let response = Changed::default().with_resource_type(kind).with_resource_name(name);
            responses.push(response.with_error_code(code).with_error_message(text));
        }
        IncrementalAlterConfigsResponse::default().with_responses(responses)
    }))
}

fn one_change(config: AlterableConfig) -> Result<ConfigChange, Failure> {
    let op = match config.config_operation {
        0 => ChangeOp::Set,
        1 => ChangeOp::Delete,
        2 => ChangeOp::Append,
        3 => ChangeOp::Subtract,
        other => {
            let text = format!("{other} is not an operation on settings; 0 sets, 1 deletes, 2 appends, 3 subtracts");
            return Err(Failure::new(ResponseError::InvalidRequest, text));
        }
    };
    let name = config.name.to_string();
    let value = config.value.map(|value| value.to_string());
    if value.is_none() && op != ChangeOp::Delete {
        return Err(Failure::new(ResponseError::InvalidRequest, format!("setting \"{name}\" needs a value")));
    }
    Ok(ConfigChange { name, op, value })
}

/// Makes one alteration; `(replace, validate_only)` are the broker call's flags.
fn alter(
    call: &Call,
    seen: &mut BTreeSet<(i8, StrBytes)>,
    (kind, name): (i8, &StrBytes),
    changes: Result<Vec<ConfigChange>, Failure>,
    (replace, validate_only): (bool, bool),
) -> Made<(), AdminError> {
    if !seen.insert((kind, name.clone())) {
        return Err(Failure::new(ResponseError::InvalidRequest, "the request names the resource more than once"));
    }
    let resource = describe_configs::resource(kind, name)?;
    let changes = changes?;
    Ok(call.shared.local_broker()?.alter_config(AlterConfig { resource, changes, replace, validate_only }))
}
