"""The rules of a store in Lua, for `RedisStore`: the same as in ``_steps``, keep both in sync.

All steps are one script, so that a server has to know one digest. A step is planned first: `get`
and `score` read through what was planned, `set` and `rank` plan. `write` then does everything, and
only its first command can fail, since a server looks there whether it may write and has memory.
So a step is done as a whole or not at all, also if a value makes the script fail.

The data of a namespace is in seven keys. One that is gone or is none of ours was lost, which is
found by a mark in each, and a new epoch begins:

- ``meta``, a hash: the version of all this, the epoch, the last revision, and more of the kind;
- ``rows``, a hash: everything else. The first letter of a field says what it is, see `repair`;
- ``order``: benches, ends and accounts by revision; ``due``: what can be removed, by the moment at
  which it is over; ``old``: what is remembered for a day, by the moment at which that begins;
  ``held``: reservations by their end; ``seen``: sessions by when they were heard of. All are
  sorted sets.

Numbers of Lua are doubles. Moments and orders are exact in them, amounts may not be: these are
texts of digits, and are added as two whole numbers below 10**15.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
"""Of the data. That of a later release is left alone."""
KEYS: Final = ("meta", "rows", "order", "due", "old", "held", "seen")

TABLES: Final = r"""
-- Before version 7, a script that reads the clock has to ask that its effects are replicated.
if redis.replicate_commands then redis.replicate_commands() end

local META, ROWS, ORDER, DUE, OLD, HELD, SEEN = unpack(KEYS)
local MARK, FOREVER = '=', math.huge
local at = 0
local function arg() at = at + 1; return ARGV[at] end
local function num() return tonumber(arg()) end

local op, channel, candidate = arg(), arg(), arg()
local VERSION, SAME_KEY, MOST_IDS, ENDED_FOR = num(), num(), num(), num()
local session, number, stamp_epoch = arg(), num(), arg()
local stamp_revision, answered, stamp_order = num(), num(), num()

local time = redis.call('TIME')
local micros = tonumber(time[1]) * 1e6 + tonumber(time[2])
local now = micros / 1e6

-- What is read, and what is planned.

local values, changed = {}, {}
local scores = {[ORDER] = {}, [DUE] = {}, [OLD] = {}, [HELD] = {}, [SEEN] = {}}
local wrong = {}

local function get(field)
    local value = values[field]
    if value == nil then
        value = not wrong[ROWS] and redis.call('HGET', ROWS, field)
        values[field] = value
    end
    return value
end
local function set(field, value)
    values[field] = value
    changed[field] = true
end
local function rank(set_of, member, score) scores[set_of][member] = score end
local function score(set_of, member)
    local planned = scores[set_of][member]
    if planned ~= nil then return planned end
    return not wrong[set_of] and tonumber(redis.call('ZSCORE', set_of, member) or nil)
end
local function members(set_of, from, to, most)
    if wrong[set_of] then return {} end
    return redis.call('ZRANGEBYSCORE', set_of, from, to, 'LIMIT', 0, most)
end
local function text(value)
    if value == FOREVER then return '+inf' end
    return string.format('%.17g', value)
end

local epoch, revision, published, forgot_at

local function write()
    local failed
    local function run(...)
        if failed then return end
        local answer = redis.pcall(...)
        if type(answer) == 'table' and answer.err then failed = answer end
    end
    -- What is no hash of ours goes first, and then comes a command that needs memory.
    for key in pairs(wrong) do run('DEL', key) end
    run('HSET', META, 'version', VERSION, 'epoch', epoch, 'revision', text(revision),
        'published', text(published), 'forgot_at', text(forgot_at))
    for field in pairs(changed) do
        local value = values[field]
        if value then run('HSET', ROWS, field, value) else run('HDEL', ROWS, field) end
    end
    for set_of, planned in pairs(scores) do
        for member, to in pairs(planned) do
            if to then run('ZADD', set_of, text(to), member) else run('ZREM', set_of, member) end
        end
    end
    return failed
end

-- Rows: arrays, whose types are looked at, since anyone may have written them.

local LAST = 2^53 - 2^41  -- the highest revision: there are whole numbers above it
local function is_whole(value)
    return type(value) == 'number' and value % 1 == 0 and math.abs(value) <= 2^53
end
local function number_of(value)
    -- What a sorted set takes and an answer can tell: anyone may have written 'nan'.
    local number = tonumber(value or nil)
    return number and math.abs(number) <= 2^53 and number
end
local CHECKS = {
    s = function(value) return type(value) == 'string' end,
    n = function(value) return type(value) == 'number' and value == value end,
    e = function(value) return value == false or (type(value) == 'number' and value == value) end,
    i = is_whole,
    o = function(value) return is_whole(value) and value >= 0 and value < LAST end,
    j = function(value) return value == false or is_whole(value) end,
    d = function(value) return type(value) == 'string' and #value < 32 and value:find('^%d+$') end,
    b = function(value) return type(value) == 'boolean' end,
    t = function(value) return type(value) == 'table' end,
}
local function fits(row, types)
    if type(row) ~= 'table' then return false end
    for place = 1, #types do
        if not CHECKS[types:sub(place, place)](row[place]) then return false end
    end
    return true
end
local function row_of(value, types)
    if not value then return nil end
    local is_read, row = pcall(cmsgpack.unpack, value)
    if is_read and fits(row, types) then return row end
end
local pack = cmsgpack.pack

-- Amounts: {millions of milliards, the rest}.

local BASE, MOST = 1e15, 9e15
local function amount(digits)
    if #digits <= 15 then return {0, tonumber(digits)} end
    return {math.min(tonumber(digits:sub(1, -16)), MOST), tonumber(digits:sub(-15))}
end
local function digits(value)
    if value[1] == 0 then return string.format('%.0f', value[2]) end
    return string.format('%.0f%015.0f', value[1], value[2])
end
local function plus(a, b)
    local high, low = a[1] + b[1], a[2] + b[2]
    if low >= BASE then high, low = high + 1, low - BASE end
    return {math.min(high, MOST), low}
end
local function minus(a, b)
    local high, low = a[1] - b[1], a[2] - b[2]
    if low < 0 then high, low = high - 1, low + BASE end
    if high < 0 then return {0, 0} end
    return {high, low}
end
local function added(a, digits_of)
    if digits_of:sub(1, 1) == '-' then return minus(a, amount(digits_of:sub(2))) end
    return plus(a, amount(digits_of))
end
local function is_above(a, b) return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2]) end

-- Each kind of row.

local BENCH, END, ACCOUNT = 'sssiones', 'ssioitns', 'sijodddd'
local CLAIM, RESERVATION, PART, SESSION = 'sn', 'snbt', 'sijdd', 'in'

local function place(key, layer) return layer .. ':' .. key end
local function bench_field(key, layer, id) return 'b' .. #id .. ':' .. id .. place(key, layer) end
local function bench_row(value)
    local row = row_of(value, BENCH)
    return row and {key = row[1], layer = row[2], id = row[3], order = row[4], revision = row[5],
        began_at = row[6], ends_at = row[7] or FOREVER, body = row[8]}
end
local function ids_of(key, layer) return row_of(get('k' .. place(key, layer)), '') or {} end
local function benches(key, layer)
    local rows = {}
    for _, id in ipairs(ids_of(key, layer)) do
        local row = type(id) == 'string' and bench_row(get(bench_field(key, layer, id)))
        if row then rows[#rows + 1] = row end
    end
    return rows
end
local function index(key, layer, without, with)
    local ids = {}
    for _, id in ipairs(ids_of(key, layer)) do
        if id ~= without and id ~= with then ids[#ids + 1] = id end
    end
    if with then ids[#ids + 1] = with end
    set('k' .. place(key, layer), #ids > 0 and pack(ids))
end
local function put_bench(row)
    local field = bench_field(row.key, row.layer, row.id)
    set(field, pack({row.key, row.layer, row.id, row.order, row.revision, row.began_at,
        row.ends_at ~= FOREVER and row.ends_at, row.body}))
    rank(ORDER, field, row.revision)
    if row.ends_at ~= FOREVER then rank(DUE, field, row.ends_at) end
    index(row.key, row.layer, nil, row.id)
end
local function drop_bench(row)
    local field = bench_field(row.key, row.layer, row.id)
    set(field, false)
    rank(ORDER, field, false)
    rank(DUE, field, false)
    index(row.key, row.layer, row.id)
end

local function end_row(value)
    local row = row_of(value, END)
    if not row then return nil end
    for _, id in ipairs(row[6]) do if type(id) ~= 'string' then return nil end end
    return {key = row[1], layer = row[2], order = row[3], revision = row[4], through = row[5],
        ids = row[6], ended_at = row[7], body = row[8]}
end
local function end_of(key, layer) return end_row(get('e' .. place(key, layer))) end
local function put_end(row)
    local field = 'e' .. place(row.key, row.layer)
    set(field, pack({row.key, row.layer, row.order, row.revision, row.through, row.ids,
        row.ended_at, row.body}))
    rank(ORDER, field, row.revision)
    rank(OLD, field, row.ended_at)
end
local function has_ended(id) return score(OLD, 'x' .. id) and true or false end
local function put_ended(id) rank(OLD, 'x' .. id, now) end

local function account_field(account, start)
    return 'a' .. string.format('%.0f:', start) .. account
end
local function account_row(value)
    local row = row_of(value, ACCOUNT)
    return row and {account = row[1], start = row[2], ends = row[3], revision = row[4],
        spent = amount(row[5]), reserved = amount(row[6]), calls = amount(row[7]),
        estimated = amount(row[8])}
end
local function account_in(account, start, ends)
    return account_row(get(account_field(account, start))) or {account = account, start = start,
        ends = ends, spent = {0, 0}, reserved = {0, 0}, calls = {0, 0}, estimated = {0, 0}}
end
local function latest(account)
    local start = number_of(get('l' .. account))
    return start and account_row(get(account_field(account, start)))
end
local touched, touches = {}, {}
local function put_account(row)
    local field = account_field(row.account, row.start)
    set(field, pack({row.account, row.start, row.ends, row.revision or 0, digits(row.spent),
        digits(row.reserved), digits(row.calls), digits(row.estimated)}))
    if not touched[field] then touches[#touches + 1] = field end
    touched[field] = true
end

local function reservation(id)
    local row = row_of(get('r' .. id), RESERVATION)
    if not row then return nil end
    for _, part in ipairs(row[4]) do if not fits(part, PART) then return nil end end
    return {id = row[1], ends_at = row[2], is_booked = row[3], parts = row[4]}
end
local function put_reservation(row)
    local field = 'r' .. row.id
    set(field, pack({row.id, row.ends_at, row.is_booked, row.parts}))
    rank(HELD, field, not row.is_booked and row.ends_at)
    rank(OLD, field, row.is_booked and row.ends_at)
end
local function drop_reservation(id)
    set('r' .. id, false)
    rank(HELD, 'r' .. id, false)
    rank(OLD, 'r' .. id, false)
end

local function session_row()
    local row = row_of(get('s' .. session), SESSION)
    return row and row[1] or 0, row and row[2]
end
local function put_session(last)
    set('s' .. session, pack({last, now}))
    rank(SEEN, 's' .. session, now)
end
"""
