package awsrole

import (
	"fmt"
	"slices"
	"strings"

	"github.com/drawbridge-mcp/drawbridge/manager/access/policy"
)

// partition is a part of AWS with names and accounts of its own.
type partition struct {
	suffix  string   // of its hosts
	dual    string   // of those with IPv6
	global  []string // services that have one host for all regions
	central string   // the region whose buckets have names without a region
}

// partitions are those that the Internet leads to.
var partitions = map[string]partition{
	"aws":        {"amazonaws.com", "api.aws", []string{"sts", "iam", "route53", "cloudfront", "organizations"}, "us-east-1"},
	"aws-us-gov": {"amazonaws.com", "api.aws", []string{"iam.us-gov", "route53.us-gov", "organizations.us-gov-west-1"}, ""},
	"aws-cn":     {"amazonaws.com.cn", "api.amazonwebservices.com.cn", []string{"iam.cn-north-1", "route53", "organizations.cn-northwest-1"}, ""},
}

// Suffixes of hosts that a grant may name: those of the API, and of functions.
var suffixes = []string{"amazonaws.com", "amazonaws.com.cn", "api.aws", "api.amazonwebservices.com.cn", "on.aws"}

// Patterns returns the hosts that the grant is about: those that it names, or the API
// of its region and what has no region. Servers of AWS's customers, such as instances
// and load balancers, are not among them; buckets of others are.
func (g Grant) Patterns() []string {
	if len(g.Hosts) > 0 {
		return slices.Clone(g.Hosts)
	}
	p := partitions[strings.Split(g.RoleARN, ":")[1]]
	patterns := []string{"*." + g.Region + "." + p.suffix, "*." + g.Region + "." + p.dual}
	for _, service := range p.global {
		patterns = append(patterns, service+"."+p.suffix)
	}
	if g.Region == p.central {
		patterns = append(patterns, "s3."+p.suffix, "*.s3."+p.suffix)
	}
	return patterns
}

// PatternsOf returns the hosts of a grant of which only the metadata is known; none
// where that is not usable.
func PatternsOf(metadata map[string]string) []string {
	g := Grant{RoleARN: metadata[FieldRole], Region: metadata[FieldRegion], Hosts: strings.Fields(metadata[FieldHosts])}
	if !rolePattern.MatchString(g.RoleARN) {
		return nil
	}
	return g.Patterns()
}

// checkHosts makes sure that the grant names hosts of AWS, and no others.
func (g Grant) checkHosts() error {
	for _, pattern := range g.Patterns() {
		bare := strings.TrimPrefix(pattern, "*.")
		isOfAWS := slices.ContainsFunc(suffixes, func(s string) bool { return bare == s || strings.HasSuffix(bare, "."+s) })
		if _, err := policy.ParseRule(pattern); err != nil || !isOfAWS {
			return fieldError(FieldHosts, fmt.Sprintf("%.80q is no host of AWS; write e.g. \"s3.eu-central-1.amazonaws.com *.s3.eu-central-1.amazonaws.com\"; other hosts are for the rules of a run", pattern))
		}
	}
	return nil
}
