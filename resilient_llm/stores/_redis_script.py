"""The rules of a store in Lua: the same as in ``_steps``, keep both in sync.

See `resilient_llm.stores._redis_tables` for what it is made of.
"""

from __future__ import annotations

import hashlib
from typing import Final

from resilient_llm.stores._redis_money import MONEY
from resilient_llm.stores._redis_tables import TABLES

_RULES: Final = r"""
-- Loss.

local function index_row(field, value)
    -- Give the sorted sets again what they say of a row.
    local kind, rest = field:sub(1, 1), field:sub(2)
    local row
    if kind == 'b' then
        row = bench_row(value)
        if row then
            rank(ORDER, field, row.revision)
            if row.ends_at ~= FOREVER then rank(DUE, field, row.ends_at) end
        end
    elseif kind == 'e' then
        row = end_row(value)
        if row then rank(ORDER, field, row.revision); rank(OLD, field, row.ended_at) end
    elseif kind == 'a' then
        row = account_row(value)
        if row then
            row.reserved = {0, 0}
            put_account(row)
            if row.ends then rank(OLD, field, row.ends) end
        end
    elseif kind == 'c' then
        row = row_of(value, CLAIM)
        if row then rank(DUE, field, row[2]) end
    elseif kind == 'u' then
        row = number_of(value)
        if row then rank(DUE, field, row) end
    elseif kind == 's' then
        row = row_of(value, SESSION)
        if row then rank(SEEN, field, row[2]) end
    elseif kind == 'r' then
        row = reservation(rest)
        if row then
            rank(HELD, field, not row.is_booked and row.ends_at)
            rank(OLD, field, row.is_booked and row.ends_at)
        end
    end
end

local function repair(missing)
    -- What reservations hold is counted again, as either they or the accounts may be gone.
    for _, key in ipairs({ORDER, DUE, HELD}) do
        if missing[ROWS] then wrong[key] = true end
    end
    if not missing[ROWS] then
        local fields = redis.call('HGETALL', ROWS)
        for place_of = 1, #fields, 2 do index_row(fields[place_of], fields[place_of + 1]) end
        for place_of = 1, #fields, 2 do
            local field = fields[place_of]
            local row = field:sub(1, 1) == 'r' and reservation(field:sub(2))
            if row and not row.is_booked then
                for _, part in ipairs(row.parts) do
                    local account = account_in(part[1], part[2], part[3])
                    account.reserved = plus(account.reserved, amount(part[4]))
                    put_account(account)
                end
            end
        end
    end
    set('', MARK)
    for set_of in pairs(scores) do rank(set_of, MARK, FOREVER) end
end

local function open()
    -- Return whether the data is as this script left it, or an error of the server.
    local missing, is_whole_data = {}, true
    local function look(key, ...)
        local answer = redis.pcall(...)
        if type(answer) == 'table' and answer.err then
            if not answer.err:find('WRONGTYPE') then return nil, answer end
            wrong[key] = true
            answer = false
        end
        if not answer then missing[key], is_whole_data = true, false end
        return answer
    end
    local meta, failed = look(META, 'HMGET', META, 'version', 'epoch', 'revision', 'published',
        'forgot_at')
    if failed then return false, failed end
    meta = meta or {}
    if (tonumber(meta[1] or nil) or 0) > VERSION then
        return false, {'newer_schema'}
    end
    epoch, revision, published, forgot_at = meta[2], tonumber(meta[3] or nil),
        tonumber(meta[4] or nil), tonumber(meta[5] or nil)
    local is_meta = tonumber(meta[1] or nil) == VERSION and epoch and #epoch > 0 and #epoch <= 64
        and is_whole(revision) and revision >= 0 and revision < LAST
        and is_whole(published) and published <= revision and forgot_at
    failed = select(2, look(ROWS, 'HGET', ROWS, ''))
    if failed then return false, failed end
    for set_of in pairs(scores) do
        failed = select(2, look(set_of, 'ZSCORE', set_of, MARK))
        if failed then return false, failed end
    end
    if is_meta and is_whole_data then return true end
    if not is_meta then revision, published, forgot_at = 0, 0, 0 end
    return false, nil, missing
end

local function next_revision()
    revision = math.max(revision + 1, micros)
    return revision
end

local function is_behind()
    if stamp_epoch ~= epoch then return false end
    return stamp_revision > revision or answered > session_row()
end

local function finish()
    for _, field in ipairs(touches) do
        local row = account_row(values[field])
        row.revision = next_revision()
        put_account(row)
        rank(ORDER, field, row.revision)
        if row.ends then rank(OLD, field, row.ends) end
        local newest = number_of(get('l' .. row.account))
        if not newest or newest < row.start then
            set('l' .. row.account, string.format('%.0f', row.start))
        end
    end
    touched, touches = {}, {}
end

local function begin_epoch(missing)
    epoch = candidate
    if not missing then return end
    repair(missing)
    for _, value in pairs(scores[ORDER]) do
        if value and value ~= FOREVER then revision = math.max(revision, value) end
    end
    finish()
    published = revision
end

-- Benches.

local function new_order(order)
    revision = math.max(revision, order)
    next_revision()
    return order > 0 and order or revision, revision
end

local function publish_bench(new)
    local rows = benches(new.key, new.layer)
    for _, row in ipairs(rows) do
        if row.id == new.id then return 'known', row.order end
    end
    local ended = end_of(new.key, new.layer)
    if has_ended(new.id) or (ended and new.order > 0 and new.order <= ended.through) then
        return 'ended', 0
    end
    local ends_at = new.ends_in and now + new.ends_in or FOREVER
    local newest = ended and ended.order or 0
    local is_needless, replaced, kept = false, {}, {}
    for _, row in ipairs(rows) do
        if row.ends_at > now then
            newest = math.max(newest, row.order)
            local goes
            if new.layer == 'manual' then
                is_needless = is_needless or (new.order > 0 and row.order > new.order)
                goes = true
            else
                is_needless = is_needless
                    or (new.order > 0 and row.order > new.order and row.ends_at >= ends_at)
                goes = row.ends_at <= ends_at and (new.order == 0 or row.order < new.order)
            end
            if goes then replaced[#replaced + 1] = row else kept[#kept + 1] = row end
        end
    end
    if new.layer == 'manual' and new.seen and newest > new.seen then return 'superseded', 0 end
    if is_needless then return 'known', 0 end
    for _, row in ipairs(replaced) do
        drop_bench(row)
        if new.layer == 'manual' then put_ended(row.id) end
    end
    if #kept >= SAME_KEY then
        table.sort(kept, function(a, b) return a.order < b.order end)
        drop_bench(kept[#kept])
    end
    local order, place_of = new_order(new.order)
    put_bench({key = new.key, layer = new.layer, id = new.id, order = order, revision = place_of,
        began_at = now - math.max(new.age, 0), ends_at = ends_at, body = new.body})
    return 'stored', order
end

local function publish_end(new)
    local named = {}
    for _, id in ipairs(new.ids) do named[id] = true end
    for _, row in ipairs(benches(new.key, new.layer)) do
        if row.order <= new.through or named[row.id] then
            drop_bench(row)
            put_ended(row.id)
        end
    end
    for _, id in ipairs(new.ids) do put_ended(id) end
    local before = end_of(new.key, new.layer)
    local ids, had = {}, {}
    for _, id in ipairs(before and before.ids or {}) do
        had[id] = true
        if not named[id] then ids[#ids + 1] = id end
    end
    if before and new.order > 0 and new.order <= before.order and new.through <= before.through then
        local has_all = true
        for _, id in ipairs(new.ids) do has_all = has_all and had[id] end
        if has_all then return 'known', before.order end
    end
    for _, id in ipairs(new.ids) do ids[#ids + 1] = id end
    while #ids > MOST_IDS do table.remove(ids, 1) end
    local order, place_of = new_order(new.order)
    local row = {key = new.key, layer = new.layer, order = order, revision = place_of,
        through = new.through, ids = ids, ended_at = now - math.max(new.age, 0), body = new.body}
    if before then
        row.through = math.max(row.through, before.through)
        if before.order > order then
            row.order, row.ended_at, row.body = before.order, before.ended_at, before.body
        end
    end
    put_end(row)
    return 'stored', order
end

local function publish_again(new)
    if new.through then
        local row = end_of(new.key, new.layer)
        return 'known', row and row.order or 0
    end
    for _, row in ipairs(benches(new.key, new.layer)) do
        if row.id == new.id then return 'known', row.order end
    end
    return has_ended(new.id) and 'ended' or 'known', 0
end

local function read_change()
    local kind = arg()
    local new = {key = arg(), layer = arg(), body = arg(), age = num(), order = num()}
    if kind == 'b' then
        new.id, new.ends_in, new.seen = arg(), num(), num()
    else
        new.through, new.ids = num(), {}
        for place_of = 1, num() do new.ids[place_of] = arg() end
    end
    return new
end

local function publish(is_repeated)
    local done = {}
    local is_stored = false
    for place_of = 1, num() do
        local new = read_change()
        local outcome, order
        if is_repeated then outcome, order = publish_again(new)
        elseif new.through then outcome, order = publish_end(new)
        else outcome, order = publish_bench(new) end
        is_stored = is_stored or outcome == 'stored'
        done[place_of] = {outcome, text(order)}
    end
    for _ = 1, is_repeated and 0 or num() do
        local row = account_in(arg(), num(), num() or false)
        local has_risen = false
        for _, name in ipairs({'spent', 'calls', 'estimated'}) do
            local value = amount(arg())
            if is_above(value, row[name]) then row[name], has_risen = value, true end
        end
        if has_risen then put_account(row) end
    end
    finish()
    if is_stored then published = revision end
    return done, is_stored
end

-- Probes.

local function claim(is_repeated)
    local done = {}
    for place_of = 1, num() do
        local key, lease = arg(), num()
        local row = row_of(get('c' .. key), CLAIM)
        if row and row[2] <= now then row = nil end
        if not is_repeated and (not row or row[1] == session) then
            row = lease and {session, now + lease} or nil
            set('c' .. key, row and pack(row) or false)
            rank(DUE, 'c' .. key, row and row[2] or false)
        end
        done[place_of] = row and {row[1] == session and 1 or 0, text(row[2] - now)} or {0, '0'}
    end
    return done
end
"""

_LOOKS: Final = r"""
-- Forgetting: at most 1,000 rows of each set at a time, so that no step takes long.

local function forget_account(field, before)
    local row = account_row(get(field))
    if row and not (row.ends and row.ends <= before) then return end
    set(field, false)
    rank(ORDER, field, false)
    if row and number_of(get('l' .. row.account)) == row.start then
        set('l' .. row.account, false)
    end
end

local function forget()
    local gap = now - forgot_at
    if gap >= 0 and gap < 60 then return end
    forgot_at = now
    -- After a longer gap nobody was there, or the clock has jumped: see _steps.
    local before = now - ((gap >= 0 and gap <= 300) and ENDED_FOR or 30 * 86400)
    for _, member in ipairs(members(DUE, '-inf', text(now), 1000)) do
        local planned = scores[DUE][member]
        if planned == nil or (planned and planned <= now) then
            local row = member:sub(1, 1) == 'b' and bench_row(get(member))
            if row then drop_bench(row) else set(member, false) end
            rank(ORDER, member, false)
            rank(DUE, member, false)
        end
    end
    for _, member in ipairs(members(OLD, '-inf', text(before), 1000)) do
        local planned = scores[OLD][member]
        if planned == nil or (planned and planned <= before) then
            local kind = member:sub(1, 1)
            if kind == 'a' then
                forget_account(member, before)
            elseif kind ~= 'x' then
                set(member, false)
                rank(ORDER, member, false)
            end
            rank(OLD, member, false)
        end
    end
    for _, member in ipairs(members(SEEN, '-inf', text(before), 1000)) do
        if scores[SEEN][member] == nil then
            set(member, false)
            rank(SEEN, member, false)
        end
    end
end

-- Looks.

local function shown(field, value)
    local kind = field:sub(1, 1)
    if kind == 'a' then
        local row = account_row(value)
        if row then return balance(row) end
    elseif kind == 'e' then
        local row = end_row(value)
        if row then
            local found = {'e', row.key, row.layer, text(row.order), text(row.through),
                text(now - row.ended_at), row.body}
            for _, id in ipairs(row.ids) do found[#found + 1] = id end
            return found
        end
    elseif kind == 'b' then
        local row = bench_row(value)
        if row then
            if row.ends_at <= now then return nil end
            return {'b', row.key, row.layer, row.id, text(row.order),
                row.ends_at ~= FOREVER and text(row.ends_at - now) or '',
                text(now - row.began_at), row.body}
        end
    end
    return {'?'}
end

local function look(since, limit)
    local is_known = stamp_epoch == epoch and not is_behind()
    if not is_known then since = 0 end
    local found = redis.call('ZRANGEBYSCORE', ORDER, '(' .. text(since), text(revision),
        'WITHSCORES', 'LIMIT', 0, limit + 1)
    local has_more = #found > 2 * limit
    local peers = redis.call('ZCOUNT', SEEN, '(' .. text(now - 60), '(' .. text(now + 60))
    local own = score(SEEN, 's' .. session)
    if not (own and own > now - 60 and own < now + 60) then peers = peers + 1 end
    local done = {epoch, has_more and text(tonumber(found[2 * limit])) or text(revision),
        has_more and 1 or 0, since <= 0 and 1 or 0,
        (not is_known and stamp_epoch ~= '') and 1 or 0, peers, text(now)}
    for place_of = 1, math.min(#found, 2 * limit), 2 do
        local value = redis.call('HGET', ROWS, found[place_of])
        local row = value and shown(found[place_of], value)
        if row then done[#done + 1] = row end
    end
    return done
end

local function changes(is_whole_data, missing)
    local since, limit = num(), num()
    local last, seen_at = 0, nil
    if is_whole_data then last, seen_at = session_row() end
    local is_lost = is_whole_data and is_behind()
    local is_due = not is_whole_data or not seen_at or math.abs(now - seen_at) >= 5 or is_lost
        or #members(HELD, '-inf', text(now), 1) > 0
    if is_due then
        local before = {epoch, revision}
        if not is_whole_data then begin_epoch(missing) elseif is_lost then begin_epoch() end
        last = session_row()
        put_session(last)
        book_overdue()
        finish()
        forget()
        local failed = write()
        if failed then
            -- It can be read and not written.
            if not is_whole_data then return failed end
            epoch, revision = unpack(before)
        end
        for field in pairs(values) do values[field] = nil end
        for set_of in pairs(scores) do scores[set_of] = {} end
        wrong = {}
    end
    return {'done', look(since, limit)}
end

-- The step.

local is_whole_data, failed, missing = open()
if failed then return failed end
if op == 'changes' then return changes(is_whole_data, missing) end
if not is_whole_data or stamp_epoch ~= epoch or is_behind() then
    if not is_whole_data then begin_epoch(missing)
    elseif stamp_epoch == epoch then begin_epoch()
    else return {'lost'} end
    return write() or {'lost'}
end
local last = session_row()
if number < last then return {'late'} end
put_session(number)
revision = math.max(revision, stamp_order)
local is_repeated = number == last
local done, is_stored
if op == 'publish' then done, is_stored = publish(is_repeated)
elseif op == 'claim' then done = claim(is_repeated)
elseif op == 'reserve' then done = reserve(is_repeated)
else done = settle(is_repeated) end
forget()
failed = write()
if failed then return failed end
-- Only a hint, so that no right to publish is needed.
if is_stored then redis.pcall('PUBLISH', channel, text(published)) end
return {'done', done}
"""

SCRIPT: Final = (TABLES + _RULES + MONEY + _LOOKS).encode()
DIGEST: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
