//! What nodes are asked, and what they say: requests, their shapes, and the account of a decision.

use sealane_model::account::{Account, Asked};
use sealane_model::impact::Shape;

use crate::v1;

impl From<Account> for v1::ExplainResponse {
    fn from(told: Account) -> Self {
        let pools = told.pools.into_iter().map(|share| v1::ExplainPool { pool: share.pool, percent: share.percent });
        let steps =
            told.steps.into_iter().map(|step| v1::ExplainStep { name: step.name, text: step.text, line: step.line });
        let not_taken =
            told.tried.into_iter().map(|it| v1::ExplainNotTaken { route: it.route, why: it.why, line: it.line });
        Self {
            request: told.request,
            decision: told.decision,
            status: u32::from(told.status.unwrap_or(0)),
            route: told.route.unwrap_or_default(),
            pools: pools.collect(),
            steps: steps.collect(),
            not_taken: not_taken.collect(),
            not_taken_left_out: u32::try_from(told.tried_left_out).unwrap_or(u32::MAX),
            ..Self::default()
        }
    }
}

impl From<v1::ExplainQuestion> for Asked {
    fn from(question: v1::ExplainQuestion) -> Self {
        let method = if question.method.is_empty() { "GET".to_owned() } else { question.method.to_ascii_uppercase() };
        let headers = question.headers.into_iter().map(|it| (it.name.to_ascii_lowercase(), it.value));
        Self { method, url: question.url, headers: headers.collect() }
    }
}

impl From<Shape> for v1::RequestShape {
    fn from(shape: Shape) -> Self {
        let headers = shape.headers.into_iter().map(|(name, value)| v1::ShapePart { name, value });
        let query = shape.query.into_iter().map(|(name, value)| v1::ShapePart { name, value: Some(value) });
        Self {
            request_id: shape.request_id,
            method: shape.method,
            host: shape.host,
            path: shape.path,
            headers: headers.collect(),
            query: query.collect(),
        }
    }
}

impl From<v1::RequestShape> for Shape {
    fn from(shape: v1::RequestShape) -> Self {
        Self {
            request_id: shape.request_id,
            method: shape.method,
            host: shape.host,
            path: shape.path,
            headers: shape.headers.into_iter().map(|part| (part.name, part.value)).collect(),
            query: shape.query.into_iter().map(|part| (part.name, part.value.unwrap_or_default())).collect(),
        }
    }
}
