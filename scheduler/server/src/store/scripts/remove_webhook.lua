-- Forget a webhook. Of a user without any, no notices are kept.
-- KEYS[1] webhooks  KEYS[2] their states  KEYS[3] webhooks of each user, counted
-- ARGV[1] id        ARGV[2] user
-- Returns 1, or 0 where there was none.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HINCRBY', KEYS[3], ARGV[2], -1) <= 0 then redis.call('HDEL', KEYS[3], ARGV[2]) end
return 1
