-- Keep how the calls of a webhook go, unless it was removed.
-- KEYS[1] webhooks  KEYS[2] their states
-- ARGV[1] id        ARGV[2] state
-- Returns 1, or 0 where there is no such webhook.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
