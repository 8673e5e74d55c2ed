"""The rules of budgets and limits in Lua; a part of ``_redis_script``."""

from __future__ import annotations

from typing import Final

MONEY: Final = r"""
-- Accounts.

local function balance(row)
    return {'a', row.account, text(row.start), row.ends and text(row.ends) or '',
        digits(row.spent), digits(row.reserved), digits(row.calls), digits(row.estimated)}
end

local function of_part(part) return account_in(part[1], part[2], part[3]) end

local ONE = {0, 1}
local function take_booking_back(held)
    for _, part in ipairs(held.parts) do
        local row = of_part(part)
        row.spent = minus(row.spent, amount(part[5]))
        row.calls, row.estimated = minus(row.calls, ONE), minus(row.estimated, ONE)
        put_account(row)
    end
end

local function book_overdue()
    for _, field in ipairs(members(HELD, '-inf', text(now), 1000)) do
        local held = reservation(field:sub(2))
        if held then
            for _, part in ipairs(held.parts) do
                local row = of_part(part)
                row.spent = plus(row.spent, amount(part[5]))
                row.reserved = minus(row.reserved, amount(part[4]))
                row.calls, row.estimated = plus(row.calls, ONE), plus(row.estimated, ONE)
                put_account(row)
            end
            held.is_booked = true
            put_reservation(held)
        else
            rank(HELD, field, false)
        end
    end
end

-- Buckets: the generic cell rate algorithm, keep in sync with _core/limits/buckets.py.

local function full_at(take) return math.max(number_of(get('u' .. take.bucket)) or 0, now) end
local function retry_after(takes)
    local longest = 0
    for _, take in ipairs(takes) do
        if take.amount > take.burst then return nil end
        local fits_at = full_at(take) + (take.amount - take.burst) * take.interval
        if fits_at > now + 1e-6 then longest = math.max(longest, fits_at - now) end
    end
    return longest
end
local function take_all(takes)
    for _, take in ipairs(takes) do
        local moment = full_at(take) + take.amount * take.interval
        set('u' .. take.bucket, text(moment))
        rank(DUE, 'u' .. take.bucket, moment)
    end
end
local function read_takes()
    local takes = {}
    for place_of = 1, num() do
        takes[place_of] = {bucket = arg(), amount = num(), interval = num(), burst = num()}
    end
    return takes
end

local function reserved(outcome, rows, seconds)
    local done = {outcome, seconds and text(seconds) or ''}
    for _, row in ipairs(rows) do done[#done + 1] = balance(row) end
    return done
end

local function reserve_one(ends_at, is_repeated)
    local id, is_renewal, charges = arg(), arg() == '1', {}
    for place_of = 1, num() do
        charges[place_of] = {account = arg(), start = num(), ends = num() or false,
            amount = arg(), cap = arg(), fallback = arg()}
    end
    local takes = read_takes()
    if is_renewal then takes = {} end
    local held = reservation(id)
    local rows = {}
    if held and not held.is_booked then
        held.ends_at = math.max(held.ends_at, ends_at)
        put_reservation(held)
        for place_of, part in ipairs(held.parts) do rows[place_of] = of_part(part) end
        return reserved('admitted', rows, 0)
    end
    if held and is_renewal and not is_repeated then take_booking_back(held) end
    for place_of, charge in ipairs(charges) do
        local row
        if not is_renewal then
            if now < charge.start or (charge.ends and now >= charge.ends) then
                return reserved('period', {}, 0)
            end
            row = latest(charge.account)
            if row and row.start <= charge.start then row = nil end
        end
        rows[place_of] = row or account_in(charge.account, charge.start, charge.ends)
    end
    local seconds = retry_after(takes)
    local is_refused = is_repeated or (held and not is_renewal) or seconds ~= 0
    for place_of, charge in ipairs(is_renewal and {} or charges) do
        local row = rows[place_of]
        local total = plus(plus(row.spent, row.reserved), amount(charge.amount))
        if charge.cap ~= '' and is_above(total, amount(charge.cap)) then is_refused = true end
    end
    if is_refused then return reserved('refused', rows, seconds) end
    local parts = {}
    for place_of, charge in ipairs(charges) do
        local row = rows[place_of]
        row.reserved = plus(row.reserved, amount(charge.amount))
        put_account(row)
        parts[place_of] = {row.account, row.start, row.ends, charge.amount, charge.fallback}
    end
    take_all(takes)
    put_reservation({id = id, ends_at = ends_at, is_booked = false, parts = parts})
    return reserved('admitted', rows, 0)
end

local function reserve(is_repeated)
    local ends_at, done = now + num(), {text(now)}
    book_overdue()
    for place_of = 1, num() do done[place_of + 1] = reserve_one(ends_at, is_repeated) end
    finish()
    return done
end

local function settle_one()
    local id, entries = arg(), {}
    for place_of = 1, num() do
        entries[place_of] = {account = arg(), start = num(), ends = num() or false,
            spent = arg(), calls = arg(), estimated = arg()}
    end
    return id, entries, read_takes()
end

local function settle(is_repeated)
    local done, named = {}, {}
    if not is_repeated then book_overdue() end
    for _ = 1, num() do
        local id, entries, takes = settle_one()
        if is_repeated then
            for _, entry in ipairs(entries) do
                local field = account_field(entry.account, entry.start)
                if not named[field] then
                    done[#done + 1] = balance(account_in(entry.account, entry.start, entry.ends))
                end
                named[field] = true
            end
        else
            local held, parts = reservation(id), {}
            if held and held.is_booked then take_booking_back(held) end
            for _, part in ipairs(held and held.parts or {}) do
                parts[part[1]] = part
                if not held.is_booked then
                    local row = of_part(part)
                    row.reserved = minus(row.reserved, amount(part[4]))
                    put_account(row)
                end
            end
            if held then drop_reservation(id) end
            for _, entry in ipairs(entries) do
                local part = parts[entry.account]
                local row = part and of_part(part)
                    or account_in(entry.account, entry.start, entry.ends)
                row.spent = added(row.spent, entry.spent)
                row.calls = added(row.calls, entry.calls)
                row.estimated = added(row.estimated, entry.estimated)
                put_account(row)
            end
            take_all(takes)
        end
    end
    for _, field in ipairs(touches) do done[#done + 1] = balance(account_row(values[field])) end
    finish()
    return done
end
"""
