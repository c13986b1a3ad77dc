-- Count one use of a join token down and keep the agent that joined with it.
-- KEYS[1] tokens    KEYS[2] enrolled agents    KEYS[3] revision
-- ARGV[1] token's id    ARGV[2] agent's id    ARGV[3] agent as JSON
-- Returns 1, or 0 with nothing done where no use is left.
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return 0 end
local token = cjson.decode(text)
if (token['uses_left'] or 0) < 1 then return 0 end
-- Changed as text: cjson would write large numbers differently.
local changed, count = string.gsub(text, '"uses_left":%d+', string.format('"uses_left":%d', token['uses_left'] - 1))
if count ~= 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], changed)
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
redis.call('INCR', KEYS[3])
return 1
