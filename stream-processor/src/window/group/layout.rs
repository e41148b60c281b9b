//! How detections share one state: which columns their operators take, under which conditions, and what they compute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{HashMap, Result};
use datafusion::functions_aggregate::{count::count_udaf, min_max::max_udaf};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::PhysicalGroupBy;

use super::{FIXED_COLUMNS, Group, plan_of};
use crate::detect::DetectionSet;
use crate::detect::window::{PANES_MAX, WindowSpec};
use crate::detect::windowed::Argument;
use crate::window::conditions::Conditions;
use crate::window::early::Early;
use crate::window::pane::SLOT_COLUMN;
use crate::window::plans::{Phases, Workbench};
use crate::window::store::group_hash;

/// Puts a set's detections over windows into groups; each is a list of places in the set.
pub(in crate::window) fn arrange(set: &DetectionSet) -> Vec<Vec<usize>> {
    type Alike<'a> = (Vec<&'a str>, i64, bool);
    let mut alike: BTreeMap<Alike<'_>, Vec<(WindowSpec, usize)>> = BTreeMap::new();
    for (place, detection) in set.iter().enumerate() {
        if let Some(plan) = detection.plan.windowed() {
            let keys = plan.keys.iter().map(|key| key.text.as_str()).collect();
            let members = alike.entry((keys, plan.delay_ns, plan.fires_early()));
            let members = members.or_default();
            members.push((plan.spec, place));
        }
    }
    let mut groups = Vec::new();
    for mut members in alike.into_values() {
        members.sort_by_key(|(spec, place)| (spec.slide_ns, *place));
        let mut panes: Vec<(i64, Vec<usize>)> = Vec::new();
        for (spec, place) in members {
            let fits =
                |pane_ns: i64| spec.slide_ns % pane_ns == 0 && spec.size_ns / pane_ns <= PANES_MAX;
            match panes.iter_mut().find(|(pane_ns, _)| fits(*pane_ns)) {
                Some((_, group)) => group.push(place),
                None => panes.push((spec.slide_ns, vec![place])),
            }
        }
        groups.extend(panes.into_iter().map(|(_, group)| group));
    }
    groups
}

/// A detection in its group.
#[derive(Debug)]
pub(in crate::window) struct Member {
    /// Its place in the set.
    pub detection: usize,
    pub spec: WindowSpec,
    /// Its condition on rows, among those of all windows.
    pub predicate: usize,
    /// Its aggregates, among the group's.
    pub aggregates: Vec<usize>,
    /// The group's aggregate that counts its rows.
    pub rows: usize,
    /// The group's aggregate that holds the time of its last row.
    pub last_time: usize,
}

/// A condition under which an aggregate counts a row: that of a detection and perhaps one FILTER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub predicate: usize,
    /// Where its FILTER stands: member and aggregate.
    pub filter: Option<(usize, usize)>,
    text: String,
}

/// Where an input column's values come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum InputColumn {
    Key(usize),
    /// Member, its aggregate, and the argument of it; arguments of its order follow the others.
    Argument(usize, usize, usize),
    Time,
    Condition(usize),
}

/// A group while it is put together.
pub(super) struct Layout {
    members: Vec<Member>,
    specs: BTreeSet<WindowSpec>,
    conditions: Vec<Condition>,
    columns: Vec<InputColumn>,
    fields: Vec<Field>,
    /// Expression arguments by what they say: their column.
    arguments: HashMap<String, usize>,
    calls: Vec<Call>,
}

/// One of the group's aggregates.
struct Call {
    label: String,
    source: CallSource,
    condition: usize,
}

#[derive(Clone, Copy)]
enum CallSource {
    /// Member and its aggregate.
    Own(usize, usize),
    Rows,
    LastTime(usize),
}

impl Layout {
    pub fn of(set: &DetectionSet, places: &[usize], known: &Conditions) -> Self {
        let mut layout = Self {
            members: Vec::new(),
            specs: BTreeSet::new(),
            conditions: Vec::new(),
            columns: Vec::new(),
            fields: vec![
                Field::new("_pane", DataType::Int64, false),
                Field::new("_slot", DataType::Int64, false),
            ],
            arguments: HashMap::new(),
            calls: Vec::new(),
        };
        for (key, spec) in plan_of(set, places[0]).keys.iter().enumerate() {
            layout.column(
                InputColumn::Key(key),
                &format!("k{key}"),
                spec.data_type.clone(),
            );
        }
        let time = layout.column(InputColumn::Time, "_time", DataType::Int64);
        for detection in places {
            layout.add_member(set, *detection, known, time);
        }
        layout
    }

    /// Adds a column of the operators' input; returns its place.
    fn column(&mut self, column: InputColumn, name: &str, data_type: DataType) -> usize {
        self.columns.push(column);
        self.fields.push(Field::new(name, data_type, true));
        self.fields.len() - 1
    }

    fn add_member(
        &mut self,
        set: &DetectionSet,
        detection: usize,
        known: &Conditions,
        time: usize,
    ) {
        let plan = plan_of(set, detection);
        let member = self.members.len();
        let predicate = known.place(set, detection);
        self.specs.insert(plan.spec);
        self.members.push(Member {
            detection,
            spec: plan.spec,
            predicate,
            aggregates: Vec::new(),
            rows: 0,
            last_time: 0,
        });
        let bare = self.condition(predicate, None, String::new());
        let predicate_text = &plan.predicate.text;
        let rows = self.call(format!("rows if {predicate_text}"), CallSource::Rows, bare);
        let last_time = self.call(
            format!("last time if {predicate_text}"),
            CallSource::LastTime(time),
            bare,
        );
        let mut aggregates = Vec::new();
        for (place, call) in plan.aggregates.iter().enumerate() {
            let ordered = call.order_by.iter().map(|(argument, ..)| argument);
            for (index, argument) in call.arguments.iter().chain(ordered).enumerate() {
                if let Argument::Expr {
                    text, data_type, ..
                } = argument
                    && !self.arguments.contains_key(text)
                {
                    let column = InputColumn::Argument(member, place, index);
                    let name = format!("x{}", self.arguments.len());
                    let column = self.column(column, &name, data_type.clone());
                    self.arguments.insert(text.clone(), column);
                }
            }
            let filter = match &call.filter {
                None => (None, String::new()),
                Some(Argument::Expr { text, .. }) => (Some((member, place)), text.clone()),
                Some(Argument::Literal(value)) => (Some((member, place)), value.to_string()),
            };
            if call.counts_rows() {
                aggregates.push(rows);
                continue;
            }
            let condition = self.condition(predicate, filter.0, filter.1.clone());
            let label = format!("{} if {predicate_text} and {}", call.text, filter.1);
            aggregates.push(self.call(label, CallSource::Own(member, place), condition));
        }
        let own = &mut self.members[member];
        (own.aggregates, own.rows, own.last_time) = (aggregates, rows, last_time);
    }

    fn condition(
        &mut self,
        predicate: usize,
        filter: Option<(usize, usize)>,
        text: String,
    ) -> usize {
        let same = |other: &Condition| other.predicate == predicate && other.text == text;
        if let Some(place) = self.conditions.iter().position(same) {
            return place;
        }
        self.conditions.push(Condition {
            predicate,
            filter,
            text,
        });
        self.conditions.len() - 1
    }

    fn call(&mut self, label: String, source: CallSource, condition: usize) -> usize {
        if let Some(place) = self.calls.iter().position(|call| call.label == label) {
            return place;
        }
        self.calls.push(Call {
            label,
            source,
            condition,
        });
        self.calls.len() - 1
    }

    pub fn into_group(
        mut self,
        bench: &Workbench,
        set: &DetectionSet,
        events: &SchemaRef,
        keys_max: usize,
    ) -> Result<Group> {
        // One condition for all: rows for which it is not true do not come this far.
        let conditional = self.conditions.len() > 1;
        let mut flags = Vec::new();
        if conditional {
            for condition in 0..self.conditions.len() {
                let name = format!("f{condition}");
                flags.push(self.column(
                    InputColumn::Condition(condition),
                    &name,
                    DataType::Boolean,
                ));
            }
        }
        let plan = plan_of(set, self.members[0].detection);
        let keys = plan.keys.len();
        let delay_ns = plan.delay_ns;
        let schema = Arc::new(Schema::new(self.fields.clone()));
        let column = |place: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(schema.field(place).name(), place))
        };
        let mut built = Vec::new();
        let mut filters = Vec::new();
        let mut call_inputs = Vec::new();
        for (place, call) in self.calls.iter().enumerate() {
            let function = self.build_call(set, call, place, &schema)?;
            let argument = match call.source {
                CallSource::Own(member, own) => {
                    match plan_of(set, self.members[member].detection).aggregates[own]
                        .arguments
                        .first()
                    {
                        Some(Argument::Expr { text, .. }) => Some(self.arguments[text]),
                        _ => None,
                    }
                }
                CallSource::Rows | CallSource::LastTime(_) => None,
            };
            let flag = conditional.then(|| flags[call.condition]);
            call_inputs.push((flag, argument));
            filters.push(flag.map(column));
            built.push(Arc::new(function));
        }
        let group_by = (0..FIXED_COLUMNS + keys)
            .map(|place| (column(place), schema.field(place).name().clone()))
            .collect();
        let phases = Phases::new(
            bench,
            Arc::clone(&schema),
            PhysicalGroupBy::new_single(group_by),
            built,
            filters,
        )?;
        let mut names = BTreeSet::new();
        for member in &self.members {
            names.extend(
                plan_of(set, member.detection)
                    .columns()
                    .into_iter()
                    .map(str::to_owned),
            );
        }
        let needed = events
            .fields()
            .iter()
            .filter(|field| names.contains(field.name()));
        let pane_ns = self
            .specs
            .iter()
            .map(|spec| spec.slide_ns)
            .min()
            .unwrap_or(1);
        let labels: Vec<String> = self.calls.into_iter().map(|call| call.label).collect();
        let hash = group_hash(plan, pane_ns);
        let mut group = Group {
            specs: self.specs.into_iter().collect(),
            pane_ns,
            delay_ns,
            keys_max,
            conditions: self.conditions,
            columns: self.columns,
            needed: Arc::new(Schema::new(needed.cloned().collect::<Vec<_>>())),
            keys,
            finishers: BTreeMap::new(),
            early: Early::default(),
            members: self.members,
            input_schema: schema,
            phases,
            labels,
            call_inputs,
            panes: BTreeMap::new(),
            open: HashMap::new(),
            hash,
            over: Vec::new(),
            next_piece: 0,
        };
        group.early = Early::new(&group, set)?;
        for spec in group.specs.clone() {
            let finisher = group.finisher(bench, spec)?;
            group.finishers.insert(spec, finisher);
        }
        Ok(group)
    }

    fn build_call(
        &self,
        set: &DetectionSet,
        call: &Call,
        place: usize,
        schema: &SchemaRef,
    ) -> Result<AggregateFunctionExpr> {
        let column = |place: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(schema.field(place).name(), place))
        };
        let argument = |argument: &Argument| -> Arc<dyn PhysicalExpr> {
            match argument {
                Argument::Literal(value) => Arc::new(Literal::new(value.clone())),
                Argument::Expr { text, .. } => column(self.arguments[text]),
            }
        };
        // Of a column without nulls: a literal would become an array of its own in each run.
        let each_row = || column(SLOT_COLUMN);
        let builder = match call.source {
            CallSource::Rows => AggregateExprBuilder::new(count_udaf(), vec![each_row()]),
            CallSource::LastTime(time) => AggregateExprBuilder::new(max_udaf(), vec![column(time)]),
            CallSource::Own(member, place) => {
                let own = &plan_of(set, self.members[member].detection).aggregates[place];
                let order_by = own
                    .order_by
                    .iter()
                    .map(|(by, ascending, nulls_first)| PhysicalSortExpr {
                        expr: argument(by),
                        options: SortOptions {
                            descending: !ascending,
                            nulls_first: *nulls_first,
                        },
                    })
                    .collect();
                let arguments = if own.is_count_star() {
                    vec![each_row()]
                } else {
                    own.arguments.iter().map(argument).collect()
                };
                AggregateExprBuilder::new(Arc::clone(&own.function), arguments).order_by(order_by)
            }
        };
        builder
            .schema(Arc::clone(schema))
            .alias(format!("a{place}"))
            .build()
    }
}
