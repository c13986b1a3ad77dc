-- Keep a webhook, provided that its user has room for it. It is called for what comes from now on.
-- KEYS[1] webhooks  KEYS[2] their states  KEYS[3] webhooks of each user, counted  KEYS[4] notices
-- ARGV[1] id        ARGV[2] record        ARGV[3] user                            ARGV[4] most of a user
-- Returns 1, or 0 where the user has as many as are allowed.
if tonumber(redis.call('HGET', KEYS[3], ARGV[3]) or '0') >= tonumber(ARGV[4]) then return 0 end
local last = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode({cursor = last and last[1] or '0-0'}))
redis.call('HINCRBY', KEYS[3], ARGV[3], 1)
return 1
