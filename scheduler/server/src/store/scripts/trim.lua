-- Drop a job's oldest events, which are kept elsewhere by now, provided that the caller leads.
-- KEYS[1] leader epoch    KEYS[2] event stream
-- ARGV[1] caller's epoch  ARGV[2] the first cursor that stays
-- Returns {'ok'} or {'fenced', epoch}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
-- Redis before 6.2 cuts streams by their length only.
local before = string.format('%.0f', tonumber(ARGV[2]) - 1)
repeat
    local old = #redis.call('XRANGE', KEYS[2], '-', before, 'COUNT', 1000)
    if old > 0 then redis.call('XTRIM', KEYS[2], 'MAXLEN', redis.call('XLEN', KEYS[2]) - old) end
until old == 0
return {'ok'}
