//! What a plan can say: every type of the plan language, each declared once in a table that decodes, encodes and
//! describes itself (see `table`).

mod check;
mod component;
mod plan;
mod scenario;
mod service;
mod step;

pub use check::{
    Ask, Check, CommandCheck, CommandExpect, DiskCheck, DiskExpect, FileCheck, FileExpect, HttpCheck,
    HttpExpect, PortCheck, PortExpect, Question, SqlCheck, SqlQuestion, TcpCheck, TcpExpect,
};
pub use component::{
    CommandComponent, Component, ComponentKind, FilesComponent, Keep, PostgresComponent,
    PostgresDumpComponent, Priority, RedisComponent, SqliteComponent, Tls,
};
pub use plan::{
    Body, Channel, ChannelKind, CommandChannel, Contact, Copy, Repository, SlackChannel, WebhookChannel,
};
pub use scenario::{Drill, Scenario, Severity};
pub use service::{
    CommandService, CommandServiceOptions, Gate, Process, ProcessService, Remedy, Service, ServiceKind,
    SystemdService,
};
pub use step::{
    Action, ApproveStep, BackupStep, BootStep, CheckStep, DnsRecord, DnsStep, Group, GroupStep, Message,
    NotifyStep, OnFailure, Only, RecordType, RecoverStep, RestartStep, RestoreStep, RunStep, StartStep, Step,
    StopStep, Try, TryStep, WaitStep,
};
