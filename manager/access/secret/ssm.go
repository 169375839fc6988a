package secret

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
)

// One operation of one service is used, so it is called without the module of the
// service: a request of JSON, signed by the SDK.

const (
	ssmService   = "ssm"
	ssmID        = "SSM" // as configuration of the SDK names it
	ssmOperation = "AmazonSSM.GetParameter"
	ssmAttempts  = 3
	ssmPause     = 200 * time.Millisecond // before the second attempt
	maxSSMAnswer = 64 << 10               // bytes
)

// fromParameterStore asks AWS for a parameter, decrypted, with the credentials and the
// region of this process's environment or its user's configuration.
func fromParameterStore(ctx context.Context, ref Reference) (string, error) {
	region := paramPattern.FindStringSubmatch(ref.place)[1]
	name := ref.place[len(region):]
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return "", failure("look at AWS_PROFILE and the files of ~/.aws", "the configuration of AWS cannot be read")
	}
	if cfg.Region == "" {
		return "", failure("write ssm://REGION"+name+", or set AWS_REGION", "no region is known")
	}
	endpoint, err := ssmEndpoint(ctx, cfg)
	if err != nil {
		return "", err
	}
	keys, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		// What tools of the host print in between could be anything.
		return "", failure("log in, e.g. with `aws sso login`, or set AWS_PROFILE", "there are no credentials for AWS")
	}
	body, err := json.Marshal(map[string]any{"Name": name, "WithDecryption": true})
	if err != nil {
		return "", err
	}
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.DisableKeepAlives = true })
	call := ssmCall{client: client, endpoint: endpoint, region: cfg.Region, keys: keys, body: body}
	pause := ssmPause
	for attempt := 1; ; attempt++ {
		value, again, err := call.do(ctx)
		if err == nil || !again || attempt == ssmAttempts {
			return value, err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pause):
			pause *= 4
		}
	}
}

// ssmEndpoint returns the URL of the service: that of the configuration, in the way of
// the SDK (AWS_ENDPOINT_URL_SSM, AWS_ENDPOINT_URL, endpoint_url of a profile), or that of
// the region.
func ssmEndpoint(ctx context.Context, cfg aws.Config) (string, error) {
	for _, source := range cfg.ConfigSources {
		s, ok := source.(interface {
			GetServiceBaseEndpoint(ctx context.Context, sdkID string) (string, bool, error)
		})
		if !ok {
			continue
		}
		text, found, err := s.GetServiceBaseEndpoint(ctx, ssmID)
		if err != nil {
			return "", err
		}
		if !found {
			continue
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
			return "", failure("write https://HOST in AWS_ENDPOINT_URL_SSM", "the endpoint of AWS Systems Manager is no URL of HTTPS")
		}
		return u.Scheme + "://" + u.Host + "/", nil
	}
	suffix := "amazonaws.com"
	if strings.HasPrefix(cfg.Region, "cn-") {
		suffix = "amazonaws.com.cn"
	}
	return fmt.Sprintf("https://%s.%s.%s/", ssmService, cfg.Region, suffix), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ssmCall is one question, which can be asked again.
type ssmCall struct {
	client   *awshttp.BuildableClient
	endpoint string
	region   string
	keys     aws.Credentials
	body     []byte
}

// do asks once. again says that the same may succeed later.
func (c *ssmCall) do(ctx context.Context) (value string, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(c.body))
	if err != nil {
		return "", false, err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", ssmOperation)
	sum := sha256.Sum256(c.body)
	if err := v4.NewSigner().SignHTTP(ctx, c.keys, req, hex.EncodeToString(sum[:]), ssmService, c.region, time.Now()); err != nil {
		return "", false, errors.New("the request cannot be signed")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return "", true, failure("look at the network of this machine, and at AWS_ENDPOINT_URL_SSM", "AWS Systems Manager in %s could not be reached", c.region)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxSSMAnswer+1))
	if err != nil || len(data) > maxSSMAnswer {
		return "", err != nil, failure("try again", "the answer of AWS Systems Manager could not be read")
	}
	if resp.StatusCode != http.StatusOK {
		return "", resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests, ssmFailure(resp.StatusCode, data)
	}
	var answer struct{ Parameter struct{ Value string } }
	if json.Unmarshal(data, &answer) != nil {
		return "", false, failure("look at AWS_ENDPOINT_URL_SSM, and at proxies on the way", "what came is no answer of AWS Systems Manager")
	}
	return answer.Parameter.Value, false, nil
}

// ssmFailure puts an error of AWS into words. Its message is not quoted: it may repeat the
// request.
func ssmFailure(status int, data []byte) error {
	var answer struct {
		Type string `json:"__type"`
	}
	_ = json.Unmarshal(data, &answer) // then it has none
	code := answer.Type[strings.LastIndexByte(answer.Type, '#')+1:]
	switch code {
	case "ParameterNotFound", "ParameterVersionNotFound":
		return failure("look at its name and region", "AWS has no such parameter")
	case "AccessDeniedException", "AccessDenied":
		return failure("allow ssm:GetParameter, and kms:Decrypt for its key, to the credentials in use", "AWS does not let these credentials read it")
	case "ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignature", "MissingAuthenticationTokenException":
		return failure("log in anew, e.g. with `aws sso login`", "AWS does not accept the credentials")
	}
	return failure("try again later", "AWS answers with status %d", status)
}
