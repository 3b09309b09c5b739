-- Posts the bodies of a file, one on a line, in turn; prints answers, microseconds, the median latency, failures.
local requests, turn = {}, 0

function init(arguments)
  for body in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("figures %d %d %.1f %d\n", summary.requests, summary.duration, latency:percentile(50), failed))
end
