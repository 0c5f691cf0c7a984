module github.com/g2g-agent/g2g-agent

go 1.26

require go.uber.org/goleak v1.3.0
