-- GET the paths given as arguments in turn. The last line that it prints is for tests/bench/wrk.py:
-- requests, microseconds, bytes, then the errors: connect, read, write, status, timeout.

local requests = {}
local last = 0

function init(args)
  for index = 1, #args do
    requests[index] = wrk.format("GET", args[index])
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end

function done(summary)
  local e = summary.errors
  print(string.format("summary %d %d %d %d %d %d %d %d", summary.requests, summary.duration, summary.bytes,
    e.connect, e.read, e.write, e.status, e.timeout))
end
