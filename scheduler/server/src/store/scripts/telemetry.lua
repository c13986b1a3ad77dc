-- Append to what is known of an agent's GPUs, and cut off what is too old.
-- KEYS[1] stream, whose entries' ids are times in milliseconds
-- ARGV[1] time of the entry   ARGV[2] the oldest time that is kept   ARGV[3] seconds until a stream to which
-- nothing is added is gone    ARGV[4] the samples
-- The clock of another scheduler may be behind: then the entry gets the time of the newest one.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local time, sequence = ARGV[1], 0
if newest then
    local ms, number = string.match(newest[1], '^(%d+)-(%d+)$')
    if tonumber(ms) >= tonumber(time) then
        time, sequence = ms, tonumber(number) + 1
    end
end
redis.call('XADD', KEYS[1], time .. '-' .. string.format('%.0f', sequence), 'b', ARGV[4])
-- Redis before 6.2 cuts streams by their length only.
if tonumber(ARGV[2]) > 0 then
    local before = string.format('%.0f', tonumber(ARGV[2]) - 1)
    local old = #redis.call('XRANGE', KEYS[1], '-', before)
    if old > 0 then redis.call('XTRIM', KEYS[1], 'MAXLEN', redis.call('XLEN', KEYS[1]) - old) end
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
