//! The maps as the library reads and writes them.

use std::cell::RefMut;

use ringfence_ebpf::abi::{
    Addr, Buffer, Claim, ConnectionKey, Endpoint, Grant, Identity, PortKey, Seed, ServiceKey, Stat,
};
use ringfence_ebpf::conntrack::Clock;
use ringfence_ebpf::shared::{SharedConnection, SharedQuota};
use ringfence_ebpf::verdict::{self, Memo, PolicyTables, Tables};

use super::super::bucket::{release, write};
use super::super::fixture;
use super::{BUCKETS, Host, SEED};

impl PolicyTables for Host {
    fn class(&self, buffer: Buffer, addr: &Addr) -> u32 {
        self.policy.class(buffer, addr)
    }

    fn grant(&self, buffer: Buffer, ruleset: u32, class: u32) -> Grant {
        self.policy.grant(buffer, ruleset, class)
    }

    fn port(&self, key: &PortKey, port: u16) -> bool {
        self.policy.port(key, port)
    }
}

fn number(tag: u64) -> usize {
    Seed::bucket::<BUCKETS>(tag) as usize
}

fn opening_number(tag: u64, key: &ConnectionKey) -> usize {
    SEED.opening_bucket::<BUCKETS>(tag, key.endpoint) as usize
}

impl Tables for Host {
    type MemoRef<'a> = RefMut<'a, Memo>;

    fn endpoint(&self, slot: u32) -> Option<&Endpoint> {
        self.endpoints.get(&slot)
    }

    fn is_tunnel_port(&self, port: u16) -> bool {
        fixture::TUNNEL_PORTS.contains(&port)
    }

    fn memo(&self, place: u32) -> Option<RefMut<'_, Memo>> {
        let memos = self.memos.borrow_mut();
        RefMut::filter_map(memos, |memos| memos.get_mut(place as usize)).ok()
    }

    fn identity(&self, addr: &Addr) -> Identity {
        self.identities.get(addr).copied().unwrap_or_default()
    }

    fn service(&self, key: &ServiceKey) -> bool {
        self.policy.services.contains_key(key)
    }

    fn class_by_prefix(&self, buffer: Buffer, addr: &Addr) -> u32 {
        self.policy.class(buffer, addr)
    }

    fn range(&self, addr: &Addr) -> u32 {
        self.policy.range_of(addr)
    }

    fn tag(&self, key: &ConnectionKey) -> u64 {
        SEED.tag(key)
    }

    fn connection(&self, tag: u64, key: &ConnectionKey) -> Option<&SharedConnection> {
        let bucket = &self.connections[number(tag)];
        let way = bucket.find(tag, key)?;
        Some(&bucket.connections[way].connection)
    }

    fn opening(&self, tag: u64, key: &ConnectionKey, clock: Clock) -> Option<&SharedConnection> {
        let bucket = &self.opening[opening_number(tag, key)];
        let way = bucket.find(tag, key)?;
        bucket.touch(way, clock);
        Some(&bucket.connections[way].connection)
    }

    fn open(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        clock: Clock,
    ) -> bool {
        let bucket = &self.opening[opening_number(tag, key)];
        let owner = SEED.owner(key, connection);
        let way = bucket.place(tag, owner, clock.now);
        if bucket.holds_answered(way, tag, clock.now) {
            self.count(Stat::ConnectionsEvicted);
        }
        write(bucket, way, tag, key, connection);
        bucket.own(way, owner, connection, clock);
        true
    }

    fn promote(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        _: u32,
        clock: Clock,
    ) -> bool {
        let bucket = &self.connections[number(tag)];
        let room = bucket.room(tag, clock);
        if let Some(way) = room {
            write(bucket, way, tag, key, connection);
            release(&self.opening[opening_number(tag, key)], tag, key);
        }
        room.is_some()
    }

    fn swap(
        &self,
        tag: u64,
        key: &ConnectionKey,
        connection: &SharedConnection,
        clock: Clock,
    ) -> bool {
        let bucket = &self.connections[number(tag)];
        let over = bucket.over(key.endpoint, clock);
        if let Some(way) = over {
            write(bucket, way, tag, key, connection);
            release(&self.opening[opening_number(tag, key)], tag, key);
        }
        over.is_some()
    }

    fn forget(&self, tag: u64, key: &ConnectionKey) -> bool {
        release(&self.connections[number(tag)], tag, key)
    }

    fn quota(&self, slot: u32) -> Option<&SharedQuota> {
        self.quotas.get(&slot)
    }

    fn gone(&self, _: u32) -> u32 {
        0
    }

    fn local(&self, addr: &Addr) -> u32 {
        let has = |endpoint: &Endpoint| verdict::endpoint_owns(endpoint, addr);
        let found = self.endpoints.iter().find(|(_, endpoint)| has(endpoint));
        found.map_or(0, |(slot, _)| *slot)
    }

    fn claimed(&self, addr: &Addr) -> Claim {
        self.claims.borrow().get(addr).copied().unwrap_or_default()
    }

    fn claim(&self, addr: &Addr, endpoint: &Endpoint, slot: u32) -> bool {
        let held = self.claimed(addr).endpoint;
        if held == 0 {
            let endpoint = endpoint.id;
            self.claims
                .borrow_mut()
                .insert(*addr, Claim { endpoint, slot });
        }
        held == 0 || held == endpoint.id
    }

    fn monotonic(&self) -> u64 {
        self.now
    }

    fn count(&self, stat: Stat) {
        self.stats.borrow_mut()[stat as usize] += 1;
    }
}
