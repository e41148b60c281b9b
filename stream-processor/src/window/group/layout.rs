//! How detections share one state: which columns their operators take, under which conditions, and what they compute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{HashMap, HashSet, Result, ScalarValue};
use datafusion::functions_aggregate::{count::count_udaf, min_max::max_udaf};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::PhysicalGroupBy;

use super::off::Off;
use super::{FIXED_COLUMNS, Group, plan_of};
use crate::detect::aggregates::{distinct_count, hash, is_plain, sample};
use crate::detect::filter::BoundExpr;
use crate::detect::window::WindowSpec;
use crate::detect::windowed::{
    AggregateCall, Argument, FLEET_HOSTS_MAX, FLEET_HOSTS_NAMED, FLEET_ROWS,
};
use crate::detect::{DetectionSet, narrow};
use crate::window::conditions::Conditions;
use crate::window::early::Early;
use crate::window::fired::{Fired, Firing};
use crate::window::pane::SLOT_COLUMN;
use crate::window::plans::{Phases, Workbench};
use crate::window::store::{StoredStates, group_hash, state_hash};

/// Puts a set's detections over windows of one host into groups; each is a list of places in the set. In which group a
/// detection is depends on itself alone: what it is grouped by, when its windows fire and close, and how far they move on.
pub(in crate::window) fn arrange(set: &DetectionSet) -> Vec<Vec<usize>> {
    type Alike<'a> = (Vec<&'a str>, i64, bool, i64);
    let mut groups: BTreeMap<Alike<'_>, Vec<usize>> = BTreeMap::new();
    for (place, detection) in set.iter().enumerate() {
        if let Some(plan) = detection.plan.windowed().filter(|plan| !plan.fleet) {
            let keys = plan.keys.iter().map(|key| key.text.as_str()).collect();
            let alike = (keys, plan.delay_ns, plan.fires_early(), plan.spec.slide_ns);
            groups.entry(alike).or_default().push(place);
        }
    }
    groups.into_values().collect()
}

/// A detection in its group.
#[derive(Debug)]
pub(in crate::window) struct Member {
    /// Its place in the set.
    pub detection: usize,
    pub spec: WindowSpec,
    /// What decides which rows count for it, among the group's.
    pub guard: usize,
    /// Its aggregates, among the group's.
    pub aggregates: Vec<usize>,
    /// The group's aggregate that counts its rows.
    pub rows: usize,
    /// The group's aggregate that holds the time of its last row.
    pub last_time: usize,
    /// The hash of what its state is of.
    pub state: String,
    /// What its windows keep of hosts and rows, where they are of the fleet.
    pub fleet: Option<FleetCalls>,
}

/// The group's aggregates that hold what a window of the fleet keeps beside its detection's own.
#[derive(Debug, Clone, Copy)]
pub(in crate::window) struct FleetCalls {
    /// The number of hosts.
    pub host_count: usize,
    /// The names of some.
    pub hosts: usize,
    /// The first rows.
    pub rows: usize,
}

impl FleetCalls {
    pub fn all(self) -> [usize; 3] {
        [self.host_count, self.hosts, self.rows]
    }
}

/// When a row counts for a detection: its condition is true, and all that it computes of the row can be computed.
/// Detections with equal guards count the same rows, and share what they compute of them.
#[derive(Debug)]
pub(super) struct Guard {
    /// Its condition on rows, among those of all windows.
    pub predicate: usize,
    /// The detections that have it, by place in the set.
    pub detections: Vec<usize>,
    /// Whether there may be rows for which something cannot be computed.
    pub can_fail: bool,
    text: String,
}

/// An expression over the columns of events, evaluated once a batch for all that use it.
#[derive(Debug)]
pub(super) struct Source {
    place: Place,
    /// What uses it, by guard.
    pub guards: Vec<usize>,
    pub data_type: DataType,
}

/// Where an expression stands.
#[derive(Debug, Clone, Copy)]
enum Place {
    Key(usize),
    /// Member, its aggregate, and the argument of it; arguments of its order follow the others.
    Argument(usize, usize, usize),
    /// Member and its aggregate.
    Filter(usize, usize),
}

impl Source {
    /// The expression.
    pub fn expr<'s>(&self, set: &'s DetectionSet, members: &[Member]) -> &'s BoundExpr {
        let plan = |member: usize| plan_of(set, members[member].detection);
        let argument = match self.place {
            Place::Key(key) => return &plan(0).keys[key].expr,
            Place::Argument(member, call, argument) => {
                plan(member).aggregates[call].argument(argument)
            }
            Place::Filter(member, call) => plan(member).aggregates[call].filter.as_ref(),
        };
        argument
            .and_then(Argument::expr)
            .expect("only expressions are sources")
    }
}

/// A condition under which an aggregate counts a row: that of a detection and perhaps one FILTER.
#[derive(Debug)]
pub(super) struct Condition {
    pub guard: usize,
    pub filter: Filter,
    text: String,
}

/// An aggregate's FILTER.
#[derive(Debug, Clone, Copy)]
pub(super) enum Filter {
    None,
    Literal(Option<bool>),
    /// By place among the sources.
    Source(usize),
}

/// Where an input column's values come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum InputColumn {
    /// By place among the sources.
    Source(usize),
    Time,
    Condition(usize),
    Host,
    /// The host, where it was heard of for so many seconds.
    KnownHost(i64),
    /// The row as evidence.
    Evidence,
}

/// A group while it is put together.
pub(super) struct Layout {
    members: Vec<Member>,
    guards: Vec<Guard>,
    specs: BTreeSet<WindowSpec>,
    conditions: Vec<Condition>,
    sources: Vec<Source>,
    /// Sources by what they say.
    by_text: HashMap<String, usize>,
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
    /// The least values of a column of texts: how many they are.
    Distinct(usize, i64),
    /// The values themselves.
    Sample(usize, i64),
}

impl Layout {
    pub fn of(set: &DetectionSet, places: &[usize], known: &Conditions) -> Self {
        let mut layout = Self {
            members: Vec::new(),
            guards: Vec::new(),
            specs: BTreeSet::new(),
            conditions: Vec::new(),
            sources: Vec::new(),
            by_text: HashMap::new(),
            columns: Vec::new(),
            fields: vec![
                Field::new("_pane", DataType::Int64, false),
                Field::new("_slot", DataType::Int64, false),
            ],
            arguments: HashMap::new(),
            calls: Vec::new(),
        };
        let keys = &plan_of(set, places[0]).keys;
        for (key, spec) in keys.iter().enumerate() {
            let source = layout.source(&spec.text, Place::Key(key), &spec.data_type);
            let name = format!("k{key}");
            layout.column(InputColumn::Source(source), &name, spec.data_type.clone());
        }
        let time = layout.column(InputColumn::Time, "_time", DataType::Int64);
        for detection in places {
            layout.add_member(set, *detection, known, time);
        }
        // What rows are grouped by is everybody's.
        let all: Vec<usize> = (0..layout.guards.len()).collect();
        for source in &mut layout.sources[..keys.len()] {
            source.guards.clone_from(&all);
        }
        let keys_fail = keys.iter().any(|key| key.expr.can_fail);
        layout
            .guards
            .iter_mut()
            .for_each(|guard| guard.can_fail |= keys_fail);
        layout
    }

    /// Adds a column of the operators' input; returns its place.
    fn column(&mut self, column: InputColumn, name: &str, data_type: DataType) -> usize {
        self.columns.push(column);
        self.fields.push(Field::new(name, data_type, true));
        self.fields.len() - 1
    }

    /// The source of an expression, a new one where none says the same.
    fn source(&mut self, text: &str, place: Place, data_type: &DataType) -> usize {
        // Keys are told apart by their place: two that say the same are two columns.
        let known = match place {
            Place::Key(_) => None,
            _ => self.by_text.get(text),
        };
        if let Some(source) = known {
            return *source;
        }
        self.sources.push(Source {
            place,
            guards: Vec::new(),
            data_type: data_type.clone(),
        });
        self.by_text.insert(text.to_owned(), self.sources.len() - 1);
        self.sources.len() - 1
    }

    /// The guard of a detection.
    fn guard(&mut self, set: &DetectionSet, detection: usize, known: &Conditions) -> usize {
        let plan = plan_of(set, detection);
        let texts = plan.aggregates.iter().flat_map(AggregateCall::fallible);
        let texts: BTreeSet<&str> = texts.collect();
        let can_fail = !texts.is_empty();
        let texts: Vec<&str> = std::iter::once(plan.predicate.text.as_str())
            .chain(texts)
            .collect();
        let text = texts.join(" and known ");
        let same = self.guards.iter().position(|guard| guard.text == text);
        if let Some(guard) = same {
            self.guards[guard].detections.push(detection);
            return guard;
        }
        self.guards.push(Guard {
            predicate: known.place(set, detection),
            detections: vec![detection],
            can_fail,
            text,
        });
        self.guards.len() - 1
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
        let guard = self.guard(set, detection, known);
        let guard_text = self.guards[guard].text.clone();
        self.specs.insert(plan.spec);
        let bare = self.condition(guard, Filter::None, String::new());
        let rows = self.call(format!("rows if {guard_text}"), CallSource::Rows, bare);
        let last_time = format!("last time if {guard_text}");
        let last_time = self.call(last_time, CallSource::LastTime(time), bare);
        let fleet = plan.fleet.then(|| self.add_fleet(&guard_text, bare));
        let mut aggregates = Vec::new();
        for (place, call) in plan.aggregates.iter().enumerate() {
            self.add_arguments(call, (member, place), guard);
            if call.counts_rows() {
                aggregates.push(rows);
                continue;
            }
            let (filter, text) = self.filter(call, (member, place), guard);
            let label = format!("{} if {guard_text} and {text}", call.text);
            let condition = self.condition(guard, filter, text);
            aggregates.push(self.call(label, CallSource::Own(member, place), condition));
        }
        self.members.push(Member {
            detection,
            spec: plan.spec,
            guard,
            aggregates,
            rows,
            last_time,
            state: String::new(),
            fleet,
        });
    }

    /// Adds what a window of the fleet keeps of hosts and rows.
    fn add_fleet(&mut self, guard: &str, condition: usize) -> FleetCalls {
        let host = self.column(InputColumn::Host, "_host", DataType::Utf8View);
        let row = self.column(InputColumn::Evidence, "_row", DataType::Utf8View);
        let mut call = |what: &str, source: CallSource| {
            self.call(format!("{what} if {guard}"), source, condition)
        };
        FleetCalls {
            host_count: call("host count", CallSource::Distinct(host, FLEET_HOSTS_MAX)),
            hosts: call("hosts", CallSource::Sample(host, FLEET_HOSTS_NAMED)),
            rows: call("first rows", CallSource::Sample(row, FLEET_ROWS)),
        }
    }

    /// Adds the columns of an aggregate's arguments.
    fn add_arguments(
        &mut self,
        call: &AggregateCall,
        (member, place): (usize, usize),
        guard: usize,
    ) {
        for (index, argument) in call.all_arguments().enumerate() {
            if let Argument::KnownHost(seconds) = argument {
                self.add_known_host(argument.text(), *seconds);
                continue;
            }
            let Argument::Expr {
                text, data_type, ..
            } = argument
            else {
                continue;
            };
            let source = self.source(text, Place::Argument(member, place, index), data_type);
            self.use_source(source, guard);
            if !self.arguments.contains_key(text) {
                let name = format!("x{}", self.arguments.len());
                let column = InputColumn::Source(source);
                let column = self.column(column, &name, data_type.clone());
                self.arguments.insert(text.clone(), column);
            }
        }
    }

    /// Adds the column of hosts that were heard of for so many seconds.
    fn add_known_host(&mut self, text: String, seconds: i64) {
        if !self.arguments.contains_key(&text) {
            let name = format!("x{}", self.arguments.len());
            let column = InputColumn::KnownHost(seconds);
            let column = self.column(column, &name, DataType::Utf8View);
            self.arguments.insert(text, column);
        }
    }

    /// The FILTER of an aggregate, and what it says.
    fn filter(
        &mut self,
        call: &AggregateCall,
        (member, place): (usize, usize),
        guard: usize,
    ) -> (Filter, String) {
        match &call.filter {
            None | Some(Argument::KnownHost(_)) => (Filter::None, String::new()),
            Some(Argument::Literal(value)) => {
                let verdict = match value {
                    ScalarValue::Boolean(verdict) => *verdict,
                    _ => None,
                };
                (Filter::Literal(verdict), value.to_string())
            }
            Some(Argument::Expr { text, .. }) => {
                let place = Place::Filter(member, place);
                let source = self.source(text, place, &DataType::Boolean);
                self.use_source(source, guard);
                (Filter::Source(source), text.clone())
            }
        }
    }

    fn use_source(&mut self, source: usize, guard: usize) {
        let guards = &mut self.sources[source].guards;
        if !guards.contains(&guard) {
            guards.push(guard);
        }
    }

    fn condition(&mut self, guard: usize, filter: Filter, text: String) -> usize {
        let same = |other: &Condition| other.guard == guard && other.text == text;
        if let Some(place) = self.conditions.iter().position(same) {
            return place;
        }
        self.conditions.push(Condition {
            guard,
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

    /// Makes the group: its operators, and what finishes its windows.
    pub fn into_group(
        mut self,
        bench: &Workbench,
        set: &DetectionSet,
        events: &SchemaRef,
        keys_max: usize,
    ) -> Result<Group> {
        let flags = self.flags();
        let plan = plan_of(set, self.members[0].detection);
        let schema = Arc::new(Schema::new(self.fields.clone()));
        let call_inputs = self.call_inputs(set, &flags);
        let calls = self.build_calls(set, &schema)?;
        let labels = self.labels(&calls)?;
        let hash = group_hash(plan);
        for member in &mut self.members {
            let own = member
                .aggregates
                .iter()
                .chain([&member.rows, &member.last_time])
                .copied()
                .chain(member.fleet.iter().flat_map(|calls| calls.all()));
            let own = own.map(|call| labels[call].as_str()).collect();
            member.state = state_hash(&hash, member.spec, &own);
        }
        let phases = self.phases(bench, &calls, &schema, &call_inputs, plan.keys.len())?;
        let mut group = Group {
            pane_ns: plan.spec.slide_ns,
            delay_ns: plan.delay_ns,
            keys_max,
            keys: plan.keys.len(),
            needed: self.needed(set, events),
            hash,
            fired: Fired::new(firing(set, &self.members)),
            unsure: HashSet::new(),
            replayed: BTreeMap::new(),
            since: BTreeMap::new(),
            stored: StoredStates::new(&phases, &calls, &labels, plan.keys.len())?,
            specs: self.specs.into_iter().collect(),
            guards: self.guards,
            conditions: self.conditions,
            sources: self.sources,
            columns: self.columns,
            members: self.members,
            input_schema: schema,
            phases,
            call_inputs,
            finishers: BTreeMap::new(),
            early: Early::default(),
            panes: BTreeMap::new(),
            open: HashMap::new(),
            over: Vec::new(),
            next_piece: 0,
            came: BTreeMap::new(),
            fired_full: BTreeSet::new(),
            off: Off::default(),
        };
        group.early = Early::new(&group, set)?;
        for spec in group.specs.clone() {
            let finisher = group.finisher(bench, spec)?;
            group.finishers.insert(spec, finisher);
        }
        Ok(group)
    }

    /// Adds the columns of the conditions. Of one condition there is none: rows for which it is not true do not come so far.
    fn flags(&mut self) -> Vec<usize> {
        if self.conditions.len() <= 1 {
            return Vec::new();
        }
        (0..self.conditions.len())
            .map(|condition| {
                let name = format!("f{condition}");
                self.column(InputColumn::Condition(condition), &name, DataType::Boolean)
            })
            .collect()
    }

    /// For each aggregate, the columns of its condition and of its first argument, where it has them.
    fn call_inputs(
        &self,
        set: &DetectionSet,
        flags: &[usize],
    ) -> Vec<(Option<usize>, Option<usize>)> {
        let argument = |call: &Call| {
            let CallSource::Own(member, own) = call.source else {
                return None;
            };
            let plan = plan_of(set, self.members[member].detection);
            match plan.aggregates[own].arguments.first() {
                Some(Argument::Expr { text, .. }) => Some(self.arguments[text]),
                Some(own @ Argument::KnownHost(_)) => Some(self.arguments[&own.text()]),
                _ => None,
            }
        };
        self.calls
            .iter()
            .map(|call| (flags.get(call.condition).copied(), argument(call)))
            .collect()
    }

    /// The aggregates as DataFusion's.
    fn build_calls(
        &self,
        set: &DetectionSet,
        schema: &SchemaRef,
    ) -> Result<Vec<Arc<AggregateFunctionExpr>>> {
        let calls = self.calls.iter().enumerate();
        calls
            .map(|(place, call)| Ok(Arc::new(self.build_call(set, call, place, schema)?)))
            .collect()
    }

    fn phases(
        &self,
        bench: &Workbench,
        calls: &[Arc<AggregateFunctionExpr>],
        schema: &SchemaRef,
        call_inputs: &[(Option<usize>, Option<usize>)],
        keys: usize,
    ) -> Result<Phases> {
        let column = |place: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(schema.field(place).name(), place))
        };
        let filters = call_inputs.iter().map(|(flag, _)| flag.map(column));
        let group_by = (0..FIXED_COLUMNS + keys)
            .map(|place| (column(place), schema.field(place).name().clone()));
        Phases::new(
            bench,
            Arc::clone(schema),
            PhysicalGroupBy::new_single(group_by.collect()),
            calls.to_vec(),
            filters.collect(),
        )
    }

    /// The columns of events that keys, arguments and filters read.
    fn needed(&self, set: &DetectionSet, events: &SchemaRef) -> SchemaRef {
        let members = self.members.iter();
        let names = members.flat_map(|member| plan_of(set, member.detection).columns());
        narrow(events, &names.map(str::to_owned).collect())
    }

    /// What each of the aggregates is, as 16 digits: function, arguments, condition, filter, and how its state lies. A
    /// condition may hold a list of any length.
    fn labels(&self, calls: &[Arc<AggregateFunctionExpr>]) -> Result<Vec<String>> {
        let label = |(call, built): (&Call, &Arc<AggregateFunctionExpr>)| {
            let state = built.state_fields()?;
            let state: Vec<String> = state
                .iter()
                .map(|field| field.data_type().to_string())
                .collect();
            let version = match is_plain(built.fun().name()) {
                true => "",
                false => datafusion::DATAFUSION_VERSION,
            };
            let text = format!("{} as {} {version}", call.label, state.join(", "));
            Ok(format!("{:016x}", hash(&text)))
        };
        self.calls.iter().zip(calls).map(label).collect()
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
                Argument::KnownHost(_) => column(self.arguments[&argument.text()]),
            }
        };
        let number = |number: i64| -> Arc<dyn PhysicalExpr> {
            Arc::new(Literal::new(ScalarValue::Int64(Some(number))))
        };
        // Of a column without nulls: a literal would become an array of its own in each run.
        let each_row = || column(SLOT_COLUMN);
        let builder = match call.source {
            CallSource::Rows => AggregateExprBuilder::new(count_udaf(), vec![each_row()]),
            CallSource::LastTime(time) => AggregateExprBuilder::new(max_udaf(), vec![column(time)]),
            CallSource::Distinct(text, size) => {
                AggregateExprBuilder::new(distinct_count(), vec![column(text), number(size)])
            }
            CallSource::Sample(text, size) => {
                AggregateExprBuilder::new(sample(), vec![column(text), number(size)])
            }
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

/// The members that fire before their windows are over, as what has fired is stored.
fn firing(set: &DetectionSet, members: &[Member]) -> Vec<Firing> {
    let firing = |(place, member): (usize, &Member)| {
        let own = set.at(member.detection);
        plan_of(set, member.detection)
            .fires_early()
            .then(|| Firing {
                member: place,
                spec: member.spec,
                name: format!("{}.{}", member.state, own.id),
                content: own.content_hash.as_str().into(),
            })
    };
    members.iter().enumerate().filter_map(firing).collect()
}
