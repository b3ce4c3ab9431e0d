-- wrk's script: POST the file named after `--`, and print what was measured as JSON.
function init(arguments)
   wrk.method = "POST"
   wrk.body = io.open(arguments[1], "rb"):read("*a")
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
   io.write(string.format(
      '\n{"requests": %d, "seconds": %f, "failed": %d, "p50": %f, "p90": %f, "p99": %f}\n',
      summary.requests, summary.duration / 1e6, failed,
      latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3
   ))
end
