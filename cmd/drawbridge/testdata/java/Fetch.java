import java.io.InputStream;
import java.net.URL;

/** Fetch prints what the URL of its argument has. */
public final class Fetch {
    public static void main(String[] args) throws Exception {
        try (InputStream in = new URL(args[0]).openStream()) {
            byte[] part = new byte[4096];
            for (int n = in.read(part); n > 0; n = in.read(part)) {
                System.out.write(part, 0, n);
            }
            System.out.flush();
        }
    }
}
