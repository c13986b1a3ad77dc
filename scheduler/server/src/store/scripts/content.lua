-- Change versions of data sets and weights.
-- KEYS[1] versions    KEYS[2] revision
-- ARGV[1] the revision that the change builds on; then pairs: field, JSON or nothing to remove it
-- Returns 1, or 0 with nothing done where another change came first.
if tonumber(redis.call('GET', KEYS[2]) or '0') ~= tonumber(ARGV[1]) then return 0 end
for at = 2, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[at])
  else
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  end
end
redis.call('INCR', KEYS[2])
return 1
