package provider

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"
)

// maxRendered is the greatest length in bytes of what a template may make.
const maxRendered = 64 << 10

// render fills a template in from the fields that the sandbox may see.
func render(name, text string, shown map[string]string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := parseTemplate(name, text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, shown); err != nil {
		return "", fmt.Errorf("fill in %s: %w", name, err)
	}
	if b.Len() > maxRendered {
		return "", fmt.Errorf("fill in %s: it has more than %d bytes", name, maxRendered)
	}
	return b.String(), nil
}

// parseTemplate accepts of the language of text/template what forms a text from
// fields, so that no template can run for long: {{.field}}, {{json .field}} and
// {{if .field}}…{{else}}…{{end}}.
func parseTemplate(name, text string) (*template.Template, error) {
	if len(text) > maxRendered {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", name, maxRendered)
	}
	t, err := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"json": quoteJSON}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(t.Templates()) > 1 {
		return nil, fmt.Errorf("read %s: templates within templates are not supported", name)
	}
	if t.Tree == nil {
		return t, nil
	}
	if err := checkList(t.Root); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return t, nil
}

func quoteJSON(value string) (string, error) {
	data, err := json.Marshal(value)
	return string(data), err
}

func checkList(list *parse.ListNode) error {
	if list == nil {
		return nil
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.TextNode, *parse.CommentNode:
		case *parse.ActionNode:
			if err := checkPipe(n.Pipe); err != nil {
				return err
			}
		case *parse.IfNode:
			if err := checkPipe(n.Pipe); err != nil {
				return err
			}
			if err := checkList(n.List); err != nil {
				return err
			}
			if err := checkList(n.ElseList); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%.80q is not supported: use {{.field}}, {{json .field}} or {{if .field}}", node)
		}
	}
	return nil
}

func checkPipe(pipe *parse.PipeNode) error {
	wrong := fmt.Errorf("{{%.80s}} is not supported: use {{.field}}, {{json .field}} or {{if .field}}", pipe)
	if len(pipe.Decl) != 0 || len(pipe.Cmds) != 1 {
		return wrong
	}
	args := pipe.Cmds[0].Args
	if len(args) == 2 {
		if id, ok := args[0].(*parse.IdentifierNode); !ok || id.Ident != "json" {
			return wrong
		}
		args = args[1:]
	}
	if field, ok := args[0].(*parse.FieldNode); !ok || len(args) != 1 || len(field.Ident) != 1 {
		return wrong
	}
	return nil
}
