//! Who may sign what, and how that changes.

use std::sync::Arc;
use std::time::Duration;

use sealane_model::envelope::Envelope;
use sealane_model::keys::{KeyId, PublicKey};
use sealane_model::release::ChangeClass;
use sealane_model::trust::{PlanFloor, Role};
use sealane_proto::v1;
use sealane_proto::v1::trust_service_server::TrustService;
use tonic::{Request, Response, Status};

use super::caller;
use crate::app::App;
use crate::trust::{self, RotateOrder, TrustError};

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Trust(pub(crate) Arc<App>);

#[tonic::async_trait]
impl TrustService for Trust {
    async fn get_trust(&self, _: Request<v1::GetTrustRequest>) -> Result<Response<v1::GetTrustResponse>, Status> {
        Ok(Response::new(trust::facts(&self.0).await?))
    }

    async fn rotate_root(
        &self,
        request: Request<v1::RotateRootRequest>,
    ) -> Result<Response<v1::RotateRootResponse>, Status> {
        let actor = caller(&request)?.name;
        let rotated = trust::rotate(&self.0, order(request.into_inner())?, &actor).await?;
        Ok(Response::new(v1::RotateRootResponse {
            version: rotated.version,
            root: Some(rotated.envelope.into()),
            applied: rotated.applied,
            missing: rotated.missing,
        }))
    }

    async fn put_root(&self, request: Request<v1::PutRootRequest>) -> Result<Response<v1::PutRootResponse>, Status> {
        let actor = caller(&request)?.name;
        let request = request.into_inner();
        let root = request.root.ok_or_else(|| bad("root", "is missing"))?;
        let version = trust::put(&self.0, &Envelope::from(root), request.even_if_unsigned, &actor).await?;
        Ok(Response::new(v1::PutRootResponse { version }))
    }
}

fn order(request: v1::RotateRootRequest) -> Result<RotateOrder, TrustError> {
    let mut add = Vec::new();
    for key in request.add {
        let public = PublicKey::from_bytes(&key.public_key).map_err(|error| bad("public_key", &error.to_string()))?;
        add.push((public, key.roles.iter().map(|name| role(name)).collect::<Result<_, _>>()?, key.comment));
    }
    let thresholds = request.thresholds.iter().map(|one| Ok((role(&one.role)?, one.threshold)));
    Ok(RotateOrder {
        replace_held_keys: request.replace_held_keys,
        add,
        remove: request.remove.into_iter().map(KeyId).collect(),
        thresholds: thresholds.collect::<Result<_, TrustError>>()?,
        plan_floor: request.plan_floor.map(plan_floor).transpose()?,
        epoch_max: None,
        even_if_unsigned: request.even_if_unsigned,
        dry_run: request.dry_run,
    })
}

fn role(name: &str) -> Result<Role, TrustError> {
    let found = Role::ALL.into_iter().find(|role| role.as_str() == name);
    found.ok_or_else(|| bad("role", "is none of root, release, timestamp"))
}

fn plan_floor(floor: v1::PlanFloor) -> Result<PlanFloor, TrustError> {
    let percent = floor.first_percent_max;
    if !(0.0..=100.0).contains(&percent) {
        return Err(bad("first_percent_max", "is not a share from 0 to 100"));
    }
    let class = |number: i32| {
        let class = v1::ChangeClass::try_from(number).ok().and_then(|class| ChangeClass::try_from(class).ok());
        class.ok_or_else(|| bad("change_classes", "has one that is unknown"))
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000, checked above")]
    let share_bp = (percent * 100.0).round() as u32;
    Ok(PlanFloor {
        stages_min: floor.stages_min,
        bake_min: Duration::from_millis(floor.bake_ms_min),
        first_share_max_bp: Some(share_bp).filter(|bp| *bp > 0),
        change_classes: floor.change_classes.into_iter().map(class).collect::<Result<_, _>>()?,
    })
}

fn bad(field: &'static str, why: &str) -> TrustError {
    TrustError::BadField { field, why: why.to_owned() }
}
